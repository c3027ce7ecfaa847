"""The audit of pictures: one-feature lookups, near-duplicates across labels and files, the miniature's planted frame."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from safemirage.config.world import WorldConfig
from safemirage.data.audit.audit import audit_files
from safemirage.data.audit.examples import Example
from safemirage.data.audit.pictures import NEAR, Picture, audit_pictures, read_pictures
from safemirage.data.records import DataError
from safemirage.miniature.world import World, build_world
from safemirage.storage import Storage
from tests.cli.calling import run
from tests.miniature.conftest import SMALL


def asked(name: str, *unsafe: bool) -> list[Example]:
    return [Example("What is it?", one, "c", name, name) for one in unsafe]


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> World:
    storage = Storage(tmp_path_factory.mktemp("framed"))
    return build_world(WorldConfig(sets=SMALL, frames=True), storage)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(WorldConfig(sets=SMALL), Storage(tmp_path_factory.mktemp("plain")))


def test_planted_frame_is_found_and_no_other_picture_shortcut(framed: World, plain: World) -> None:
    found = audit_files(framed.vlguard_train, image_folder=framed.image_folder)
    assert found.pictures is not None
    best = found.pictures.held_out[0]
    assert (best.kind, best.accuracy, best.questions) == ("edge colour", 1.0, 120)
    assert "A strong shortcut through the pictures: the edge colour tells" in found.verdict
    found = audit_files(plain.vlguard_train, image_folder=plain.image_folder)
    assert found.pictures is not None
    assert (
        "No shortcut through a simple feature of the pictures: the best, the mean" in found.verdict
    )
    assert audit_files(plain.vlguard_train).pictures is None


def test_audit_of_pictures_on_screen(
    framed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run("audit", framed.vlguard_train, "--image-folder", framed.image_folder) == 0
    screen = capsys.readouterr().out
    assert "lookup by one feature of 120 pictures, held out" in screen
    assert "near-duplicates, a safe and an unsafe picture: " in screen


def test_pictures_have_features_labels_and_near_duplicates(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    ramp = Image.linear_gradient("L").rotate(90).point(lambda value: 3 * value // 4).convert("RGB")
    ramp.save(tmp_path / "web" / "a1.png")
    ramp.resize((128, 128)).save(tmp_path / "web" / "a2.jpg")
    ramp.rotate(180).save(tmp_path / "b.png")
    examples = [
        *asked("web/a1.png", True),
        *asked("web/a2.jpg", False, True),
        *asked("b.png", True),
    ]
    pictures = read_pictures(examples, tmp_path)
    assert [one.unsafe for one in pictures] == [True, False, True]
    assert pictures[1].features == {
        "size": "128x128",
        "format": "JPEG",
        "folder": "web",
        "mean colour": "111",
        "edge colour": "111",
    }
    found = audit_pictures(pictures, {"test.json": pictures[2:]})
    assert [(one.first, one.second) for one in found.across_labels] == [
        ("web/a1.png", "web/a2.jpg")
    ]
    assert [(one.first, one.bits) for one in found.shared["test.json"]] == [("b.png", 0)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"record broken\.png, image: cannot be decoded"):
        read_pictures(asked("broken.png", True), tmp_path)


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs() -> None:
    rng = random.Random(0)
    hashes = {rng.getrandbits(64) for _ in range(50)}
    for _ in range(3):
        hashes |= {one ^ 1 << rng.randrange(64) ^ 1 << rng.randrange(64) for one in hashes}
    pictures = [Picture(str(one), one % 2 == 0, {}, one) for one in sorted(hashes)]
    unsafe, safe = ([one for one in pictures if one.unsafe is label] for label in (True, False))
    every = {
        (a.name, b.name) for a in unsafe for b in safe if (a.hash ^ b.hash).bit_count() <= NEAR
    }
    found = audit_pictures(
        [replace(one, features={"size": "1x1"}) for one in pictures], {}
    ).across_labels
    assert len(every) > 20
    assert {(one.first, one.second) for one in found} == every
