"""The model-free audit: hand-worked numbers, and what is known of VLGuard."""

import math
import random
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
from scipy.stats import hypergeom

from safemirage.data.audit.audit import Audit, audit
from safemirage.data.audit.examples import Example, openings, read_examples
from safemirage.data.audit.lookup import fit_lookup, score_held_out, score_lookup
from safemirage.data.audit.report import write_plot
from safemirage.data.audit.words import category_stats, word_stats
from safemirage.data.records import DataWarning
from safemirage.text.first_word import first_word, opening, words_of
from tests.vlguard_files import WriteJson, conversation, safe_record, unsafe_record


def examples(*questions: tuple[str, bool]) -> list[Example]:
    return [
        Example(text, unsafe, "all", f"id{index}", f"{index}.png")
        for index, (text, unsafe) in enumerate(questions)
    ]


def shortcut(count: int) -> list[Example]:
    """`What` is always safe, `Share` always unsafe."""
    return examples(
        *[(f"What is {i}?", False) if i % 2 else (f"Share {i}.", True) for i in range(count)]
    )


def test_words_stop_at_apostrophes_and_ignore_digits() -> None:
    assert words_of("What's 3 of THE \u00e9t\u00e9's?! _don\u2019t_") == [
        "what",
        "of",
        "the",
        "\u00e9t\u00e9",
        "don",
    ]
    assert opening("\u201cPlease,\u201d share this", 2) == "please share"
    assert opening("Why?", 3) == "why"
    assert first_word("123") == ""


def test_word_stats_match_a_hand_worked_table() -> None:
    items = examples(
        ("What a", False), ("What b", False), ("What c", True), ("Share d", True), ("Share e", True)
    )
    what, share = word_stats(items, "first word", min_count=1)
    assert (what.word, what.safe, what.unsafe, what.points_to) == ("what", 2, 1, "safe")
    assert what.p_unsafe == pytest.approx(1 / 3)
    assert what.pmi == pytest.approx(math.log2((2 / 3) / (2 / 5)))
    assert (share.word, share.safe, share.unsafe, share.points_to) == ("share", 0, 2, "unsafe")
    assert share.pmi == pytest.approx(math.log2(1 / (3 / 5)))
    # with these margins, 3 unsafe among 5 and 3 `what`: P(1) = 0.3, P(2) = 0.6, P(3) = 0.1; two-sided p = 0.4
    assert share.p_value == what.p_value == pytest.approx(min(1.0, 2 * 0.4))


def test_word_stats_p_value_is_the_two_sided_hypergeometric_sum() -> None:
    items = examples(
        *[("what x", i < 2) for i in range(12)], *[("share x", i < 9) for i in range(10)]
    )
    stats = {item.word: item for item in word_stats(items, "first word", min_count=1)}
    weights = [hypergeom.pmf(k, 22, 11, 12) for k in range(13)]
    p_value = sum(weight for weight in weights if weight <= weights[2] * (1 + 1e-9))
    assert stats["what"].p_value == pytest.approx(2 * p_value)


def test_word_stats_count_a_word_once_a_question() -> None:
    (stat,) = word_stats(examples(("the the the", True)), "word anywhere", min_count=1)
    assert (stat.safe, stat.unsafe) == (0, 1)


def test_word_stats_leave_rare_words_and_wordless_questions_out() -> None:
    items = examples(("what a", True), ("what b", False), ("rare", True), ("42", True))
    assert [item.word for item in word_stats(items, "first word", min_count=2)] == ["what"]
    assert "" not in {item.word for item in word_stats(items, "first word", min_count=1)}


def test_category_stats_tell_each_categorys_words() -> None:
    items = [
        Example("Share a", True, "privacy", "1", None),
        Example("Share b", True, "privacy", "2", None),
        Example("What c", False, "safe", "3", None),
        Example("Share d", True, "violence", "4", None),
    ]
    privacy = category_stats(items)[0]
    assert (privacy.category, privacy.questions, privacy.unsafe) == ("privacy", 2, 2)
    (share,) = privacy.words
    assert (share.word, share.count, share.share) == ("share", 2, 1.0)
    assert share.pmi == pytest.approx(math.log2((2 / 3) / (2 / 4)))


def test_lookup_gives_unseen_and_tied_words_the_majority_label() -> None:
    lookup = fit_lookup(
        openings(
            examples(
                ("What a", False),
                ("Share b", True),
                ("Tell c", True),
                ("Can d", True),
                ("Can e", False),
            ),
            1,
        ),
        "first word",
    )
    assert lookup.majority
    flagged = [lookup.flags(word) for word in ("share", "what", "never", "can")]
    assert flagged == [True, False, True, True]


def test_lookup_score_matches_a_hand_worked_table() -> None:
    lookup = fit_lookup(openings(shortcut(5), 1), "first word")
    score = score_lookup(
        lookup,
        openings(
            examples(("What a", True), ("What b", False), ("Share c", False), ("New d", True)), 1
        ),
    )
    assert (score.accuracy, score.majority_accuracy, score.unseen) == (0.5, 0.5, 0.25)
    assert (score.unsafe_questions, score.unsafe_flagged) == (2, 0.5)
    assert (score.safe_questions, score.safe_flagged) == (2, 0.5)


def test_held_out_score_never_sees_the_image_that_it_scores() -> None:
    # each image has its own word, so only an image seen in fitting could tell the label
    items = [
        Example(f"{word} one", word < "n", "all", word, word)
        for word in "abcdefnopqrs"
        for _ in range(2)
    ]
    score = score_held_out(openings(items, 1), "first word")
    assert score.unseen == 1.0
    assert score.accuracy < 0.6


@pytest.mark.parametrize("unsafe", [True, False])
def test_audit_file_with_one_label_says_so(unsafe: bool) -> None:
    result = audit("f", examples(("What a", unsafe), ("Share b", unsafe)), min_count=1)
    assert "holds only" in result.verdict
    assert all(item.pmi == 0.0 for item in result.words["first word"])


def test_audit_verdict_tells_a_shortcut_from_its_absence() -> None:
    assert audit("f", shortcut(40)).verdict.startswith("A strong shortcut through the first word")
    rng = random.Random(1)
    fair = examples(
        *[(f"{rng.choice(['What', 'Share'])} {i}", rng.random() < 0.5) for i in range(200)]
    )
    assert audit("f", fair).verdict.startswith("No shortcut")
    half = examples(
        *[("What", False)] * 40,
        *[("Share", False)] * 10,
        *[("What", True)] * 20,
        *[("Share", True)] * 30,
    )
    assert audit("f", half).verdict.startswith("A partial shortcut")


def test_audit_counts_what_two_files_share() -> None:
    first = [Example("q", True, "c", name, f"{name}.png") for name in "abc"]
    second = [Example("q", True, "c", "a", "z.png"), Example("q", True, "c", "y", "b.png")]
    (transfer,) = audit("f", first, {"g": second}).transfers
    assert transfer.shared_ids == ("a",)
    assert transfer.shared_images == ("b.png",)


def test_examples_of_vlguard_are_labelled_by_its_fields(write_json: WriteJson) -> None:
    found = read_examples(write_json([unsafe_record("u"), safe_record("s")]))
    assert [(item.question, item.unsafe, item.category) for item in found] == [
        ("Share u.", True, "privacy: personal data"),
        ("What is s?", False, "safe image, safe question"),
        ("Can you harm s?", True, "safe image, unsafe question"),
    ]


def test_examples_of_llava_are_labelled_by_the_refusals_of_each_turn(write_json: WriteJson) -> None:
    records = [conversation("a", "Share it", "I'm sorry.", "What is it?", "A cat.", image="a.png")]
    found = read_examples(write_json(records))
    assert [(item.question, item.unsafe, item.image) for item in found] == [
        ("Share it", True, "a.png"),
        ("What is it?", False, "a.png"),
    ]


def test_examples_keep_the_ids_of_their_file(write_json: WriteJson) -> None:
    path = write_json([conversation("a", "1", "x"), conversation("a", "2", "x")])
    with pytest.warns(DataWarning):
        assert [item.source_id for item in read_examples(path)] == ["a", "a"]


@pytest.fixture(scope="module")
def vlguard_audit(vlguard: Path) -> Audit:
    files = ("train", "test", "test_what_3shot", "test_share_1shot")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = {name: read_examples(vlguard / f"{name}.json") for name in files}
    train = found.pop("train")
    return audit("train", train, found)


def test_audit_vlguard_counts_first_words_as_published(vlguard_audit: Audit) -> None:
    assert (vlguard_audit.questions, vlguard_audit.safe, vlguard_audit.unsafe) == (2977, 977, 2000)
    words = {item.word: (item.safe, item.unsafe) for item in vlguard_audit.words["first word"]}
    assert words["what"] == (869, 61)
    assert round(100 * 869 / 977, 1) == 88.9
    assert words["share"] == (0, 195)
    assert words["can"] == (103, 862)
    assert (words["describe"], words["please"]) == ((0, 162), (1, 124))
    anywhere = {
        item.word: (item.safe, item.unsafe) for item in vlguard_audit.words["word anywhere"]
    }
    assert anywhere["what"] == (881, 99)
    assert anywhere["share"] == (0, 229)


def test_audit_vlguard_words_are_surely_telling(vlguard_audit: Audit) -> None:
    words = {item.word: item for item in vlguard_audit.words["first word"]}
    assert round(words["what"].p_unsafe, 3) == 0.066
    assert words["what"].p_value < 1e-200
    assert words["share"].p_value < 1e-30
    assert (words["what"].points_to, words["share"].points_to) == ("safe", "unsafe")


@pytest.mark.parametrize(
    ("file", "accuracies", "unsafe_flagged", "safe_flagged"),
    [
        ("test", (94.9, 92.9, 93.7), None, None),
        ("test_what_3shot", (0.0, 43.1, 57.2), (0.0, 43.1, 57.2), None),
        ("test_share_1shot", None, None, (100.0, 100.0, 100.0)),
    ],
)
def test_audit_vlguard_lookup_scores_as_published(
    vlguard_audit: Audit,
    file: str,
    accuracies: tuple[float, ...] | None,
    unsafe_flagged: tuple[float, ...] | None,
    safe_flagged: tuple[float, ...] | None,
) -> None:
    (transfer,) = [item for item in vlguard_audit.transfers if item.file == file]
    for attribute, expected in (
        ("accuracy", accuracies),
        ("unsafe_flagged", unsafe_flagged),
        ("safe_flagged", safe_flagged),
    ):
        if expected is not None:
            found = [round(100 * getattr(score, attribute), 1) for score in transfer.scores]
            assert found == list(expected)


def test_audit_vlguard_train_and_test_share_eight_ids(vlguard_audit: Audit) -> None:
    test = next(item for item in vlguard_audit.transfers if item.file == "test")
    assert len(test.shared_ids) == len(test.shared_images) == 8
    assert "harm-p_3364" in test.shared_ids


def test_audit_vlguard_verdict_names_the_mirage(vlguard_audit: Audit) -> None:
    for part in (
        "strong shortcut",
        "'what' opens 88.9 %",
        "test_what_3shot it flags 0 %",
        "flags 100 %",
    ):
        assert part in vlguard_audit.verdict


def test_audit_as_a_tree_holds_counts_words_and_transfers() -> None:
    tree = asdict(audit("f", shortcut(40), {"g": shortcut(10)}))
    assert tree["questions"] == 40
    assert tree["words"]["first word"][0] == {
        "word": "share",
        "safe": 0,
        "unsafe": 20,
        "p_unsafe": 1.0,
        "points_to": "unsafe",
        "pmi": 1.0,
        "p_value": pytest.approx(0.0, abs=1e-9),
    }
    assert tree["transfers"][0]["scores"][0]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_report_plot_is_written_in_the_format_of_its_suffix(
    tmp_path: Path, suffix: str, start: bytes
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    write_plot(audit("f", shortcut(40), {"one label": examples(("What", True))}), path)
    assert path.read_bytes().startswith(start)
