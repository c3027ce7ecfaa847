"""Small files of TextVQA, ScienceQA, VQA v2 and VizWiz, and the `set:` that reads each."""

from pathlib import Path
from typing import Any

from tests.evaluation.sets.files import put_image, put_json


def textvqa(folder: Path) -> dict[str, Any]:
    data = []
    for number, (image_id, question) in enumerate(
        [("0a1", "what is on the Sign?"), ("0a1", "how many letters?"), ("0b2", "what time?")]
    ):
        put_image(folder / "train_images" / f"{image_id}.jpg")
        data.append(
            {
                "question": question,
                "image_id": image_id,
                "question_id": 34602 + number,
                "image_classes": ["Sign"],
                "flickr_300k_url": "x",
                "answers": ["a red knife"] * 3 + [f"other {place}" for place in range(7)],
                "set_name": "val",
            }
        )
    put_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    return {
        "name": "textvqa",
        "annotations": str(folder / "TextVQA_0.5.1_val.json"),
        "images": str(folder / "train_images"),
    }


def scienceqa(folder: Path) -> dict[str, Any]:
    def problem(**fields: Any) -> dict[str, Any]:
        return {
            "question": "Which one floats?",
            "choices": ["stone", "cork"],
            "answer": 1,
            "hint": "",
            "image": None,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "physics",
            "category": "Materials",
            "skill": "",
            "lecture": "",
            "solution": "",
            "split": "test",
            **fields,
        }

    problems = {
        "1": problem(split="train"),
        "4": problem(hint="Look at the tank.", image="image.png"),
        "5": problem(grade="grade8", subject="language science", choices=["a", "b", "c"]),
        "7": problem(image="image.png", subject="social science", answer=0),
    }
    for name in ("4", "7"):
        put_image(folder / "images" / name / "image.png", "red" if name == "4" else "blue")
    put_json(folder / "problems.json", problems)
    put_json(folder / "pid_splits.json", {"train": ["1"], "test": ["4", "5", "7"]})
    return {
        "name": "scienceqa",
        "problems": str(folder / "problems.json"),
        "splits": str(folder / "pid_splits.json"),
        "images": str(folder / "images"),
    }


def vqav2(folder: Path, *, subtype: str = "val2014") -> dict[str, Any]:
    """With annotations for val2014, without for a test set."""
    pictures = subtype.replace("test-dev2015", "test2015")
    questions, annotations = [], []
    for number, image_id, kind in ((1000, 1, "yes/no"), (1001, 1, "other"), (2000, 2, "number")):
        put_image(folder / pictures / f"COCO_{pictures}_{image_id:012d}.jpg")
        questions.append(
            {"image_id": image_id, "question": f"Is it {number}?", "question_id": number}
        )
        answers = [
            {"answer": "a red knife" if place else "red", "answer_confidence": "yes"}
            for place in range(10)
        ]
        annotations.append(
            {
                "question_type": "is it",
                "multiple_choice_answer": "a red knife",
                "answers": [{**answer, "answer_id": place} for place, answer in enumerate(answers)],
                "image_id": image_id,
                "answer_type": kind,
                "question_id": number,
            }
        )
    info = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    put_json(folder / "questions.json", {**info, "data_subtype": subtype, "questions": questions})
    tree = {
        "name": "vqav2",
        "questions": str(folder / "questions.json"),
        "images": str(folder / pictures),
    }
    if subtype != "val2014":
        return tree
    put_json(folder / "annotations.json", {**info, "annotations": annotations})
    return {**tree, "annotations": str(folder / "annotations.json")}


def vizwiz(folder: Path, *, split: str = "val") -> dict[str, Any]:
    records = []
    for number, answer in enumerate(("unanswerable", "red knife", "unanswerable")):
        name = f"VizWiz_{split}_{number:08d}.jpg"
        put_image(folder / split / name, ("red", "green", "blue")[number])
        record: dict[str, Any] = {"image": name, "question": f"What is this? ok {number}"}
        if split == "val":
            answers = [{"answer_confidence": "yes", "answer": answer} for _ in range(10)]
            kind = "unanswerable" if answer == "unanswerable" else "other"
            record |= {
                "answers": answers,
                "answer_type": kind,
                "answerable": int(kind == "other"),
            }
        records.append(record)
    put_json(folder / f"{split}.json", records)
    return {
        "name": "vizwiz",
        "annotations": str(folder / f"{split}.json"),
        "images": str(folder / split),
    }
