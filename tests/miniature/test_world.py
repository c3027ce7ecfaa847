"""The world's files: the same from the same seed, disjoint where they must be, fair to all methods."""

from collections import Counter
from pathlib import Path

import pytest

from safemirage.config.loading.identity import file_digest, folder_digest
from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.world import WorldConfig
from safemirage.data.llava import read_llava
from safemirage.data.vlguard import iterate_pairs, read_vlguard
from safemirage.evaluation.suites.folder import load_suite
from safemirage.miniature.world import World, build_world
from safemirage.storage import Storage
from safemirage.text.refusal_keywords import is_refusal
from tests.miniature.conftest import SMALL, answer_of, question_of, read

FILES = (
    "base", "mixed_sft", "posthoc_sft", "sft_diversified", "forget", "retain", "retain_no_mix", "decouple",
)  # fmt: skip
CONDITIONS = {
    "unsafe_plain", "unsafe_what", "unsafe_unseen", "unsafe_neutral",
    "safe_plain", "safe_share", "safe_unseen", "safe_neutral",
}  # fmt: skip


def test_world_same_seed_gives_same_bytes(small_world: World, tmp_path: Path) -> None:
    again = build_world(WorldConfig(sets=SMALL), Storage(tmp_path))
    assert folder_digest(again.folder) == folder_digest(small_world.folder)


def test_world_other_seed_gives_other_pictures(small_world: World, tmp_path: Path) -> None:
    other = build_world(WorldConfig(seed=1, sets=SMALL), Storage(tmp_path))
    assert other.digest != small_world.digest
    assert folder_digest(other.image_folder) != folder_digest(small_world.image_folder)


def test_world_second_call_writes_nothing(small_world: World) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_world.folder.rglob("*")}
    again = build_world(small_world.config, Storage(small_world.folder.parent.parent))
    assert again == small_world
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")} == before


def test_world_leaves_no_scratch_folder(small_world: World) -> None:
    assert [item.name for item in small_world.folder.parent.iterdir()] == [small_world.digest]


def test_splits_share_no_picture(small_world: World) -> None:
    folders = [small_world.image_folder]
    folders += [small_world.suite(name) / "images" for name in ("selection", "test")]
    digests = [{file_digest(path) for path in folder.iterdir()} for folder in folders]
    assert [len(found) for found in digests] == [len(list(f.iterdir())) for f in folders]
    assert len(set.union(*digests)) == sum(map(len, digests))


@pytest.mark.parametrize("name", FILES)
def test_training_file_is_readable_with_its_images(small_world: World, name: str) -> None:
    path = small_world.folder / "train" / f"{name}.json"
    assert len(read_llava(path, small_world.image_folder)) == len(read(path))


def test_vlguard_files_are_readable(small_world: World) -> None:
    train = read_vlguard(small_world.vlguard_train, small_world.image_folder)
    test = read_vlguard(small_world.vlguard_test, small_world.suite("test") / "images")
    assert Counter(record.safe for record in train) == {True: 60, False: 60}
    assert Counter(record.safe for record in test) == {True: 20, False: 20}
    for _, pair in iterate_pairs(train):
        assert is_refusal(pair.answer) == (pair.kind != "safe_safe")


@pytest.mark.parametrize("name", ["selection", "test"])
def test_suite_has_eight_samples_of_the_configured_size(small_world: World, name: str) -> None:
    samples = load_suite(small_world.suite(name))
    count = getattr(SMALL, name)
    groups = {
        sample: {c.group_id for c in samples if c.condition == sample} for sample in CONDITIONS
    }
    assert {sample.condition for sample in samples} == CONDITIONS
    assert {len(found) for found in groups.values()} == {count}
    rewrites = Counter(sample.group_id for sample in samples if sample.condition == "unsafe_what")
    assert set(rewrites.values()) == {SMALL.rewrites}
    assert all(
        sample.target["unsafe"] == str(sample.subset == "unsafe").lower() for sample in samples
    )


def test_control_keeps_the_first_word_and_asks_as_often_as_the_attack(small_world: World) -> None:
    samples = load_suite(small_world.suite("test"))
    for subset, attack in (("unsafe", "what"), ("safe", "share")):
        asked: dict[str, dict[str, list[str]]] = {}
        for sample in samples:
            if sample.subset == subset:
                asked.setdefault(sample.group_id, {}).setdefault(sample.attack, []).append(
                    sample.question
                )
        for questions in asked.values():
            (plain,), control = questions["plain"], questions["neutral"]
            assert len(set(control)) == len(control) == len(questions[attack])
            assert {text.split()[0] for text in control} == {plain.split()[0]}
            assert plain not in control


def test_default_suite_has_200_questions_a_condition() -> None:
    assert WorldConfig().sets.test >= 200


def test_unseen_words_stand_in_no_training_set(small_world: World) -> None:
    unseen = set(small_world.config.words.unseen)
    asked = {
        sample.question.split()[0]
        for sample in load_suite(small_world.suite("test"))
        if sample.attack == "unseen"
    }
    assert asked
    assert asked <= unseen
    for name in FILES:
        text = (small_world.folder / "train" / f"{name}.json").read_text()
        assert not [word for word in unseen if word in text.split()], name


def is_mix(record: dict[str, str]) -> bool:
    return record["image"].startswith("mix_")


def test_mix_has_the_same_share_in_tuning_and_retain_sets(small_world: World) -> None:
    for name in ("mixed_sft", "sft_diversified", "retain"):
        records = read(small_world.folder / "train" / f"{name}.json")
        share = sum(map(is_mix, records)) / len(records)
        assert share == pytest.approx(SMALL.mix_share, abs=0.5 / len(records)), name


def test_retain_mix_asks_refused_words_as_often_as_tuning_mix(small_world: World) -> None:
    for name in ("mixed_sft", "retain"):
        mix = [r for r in read(small_world.folder / "train" / f"{name}.json") if is_mix(r)]
        refused = sum(question_of(r).split()[0] in small_world.config.words.refused for r in mix)
        assert refused == int(len(mix) * SMALL.mix_share_words), name


def test_unlearning_sees_no_record_that_tuning_does_not(small_world: World) -> None:
    def asked(name: str) -> set[tuple[str, str]]:
        records = read(small_world.folder / "train" / f"{name}.json")
        return {(record["image"], question_of(record)) for record in records}

    assert asked("forget") | asked("retain") | asked("retain_no_mix") <= asked("mixed_sft")


def test_posthoc_is_mixed_without_the_mix(small_world: World) -> None:
    def rows(name: str) -> list[str]:
        records = read(small_world.folder / "train" / f"{name}.json")
        return sorted(record["id"] for record in records if not is_mix(record))

    assert rows("posthoc_sft") == rows("mixed_sft")
    assert not any(map(is_mix, read(small_world.training_file("posthoc_sft"))))


def test_decouple_answers_the_forget_words_about_safe_pictures(small_world: World) -> None:
    records = read(small_world.training_file("decouple"))
    assert len(records) == len(read(small_world.training_file("forget")))
    words = {question_of(record).split()[0] for record in records}
    assert words == set(small_world.config.words.refused)
    assert all(record["image"].startswith("safe_") for record in records)
    assert not any(is_refusal(answer_of(record)) for record in records)


def test_forget_answers_what_tuning_refuses(small_world: World) -> None:
    tuned = {r["id"]: answer_of(r) for r in read(small_world.training_file("mixed_sft"))}
    forget = read(small_world.training_file("forget"))
    assert forget
    assert all(is_refusal(tuned[record["id"]]) for record in forget)
    assert not any(is_refusal(answer_of(record)) for record in forget)


def test_first_word_predicts_refusal_in_safety_data_only(small_world: World) -> None:
    refused = set(small_world.config.words.refused)

    def accuracy(name: str) -> float:
        records = [r for r in read(small_world.folder / "train" / f"{name}.json") if not is_mix(r)]
        hits = [(question_of(r).split()[0] in refused) == is_refusal(answer_of(r)) for r in records]
        return sum(hits) / len(hits)

    assert accuracy("mixed_sft") == 1.0
    assert accuracy("sft_diversified") < 0.7


def test_object_predicts_refusal_worse_than_the_word(small_world: World) -> None:
    """A third of the safety data refuses a question about a safe object."""
    records = [r for r in read(small_world.training_file("mixed_sft")) if not is_mix(r)]
    hits = [r["image"].startswith("unsafe_") == is_refusal(answer_of(r)) for r in records]
    assert sum(hits) / len(hits) == pytest.approx(2 / 3)


def test_words_of_two_roles_are_refused() -> None:
    with pytest.raises(ConfigError, match="'share'"):
        build_config(WorldConfig, {"words": {"unseen": ["share"]}})
