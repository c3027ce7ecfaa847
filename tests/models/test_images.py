"""The one decoder of images."""

from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safemirage.evaluation.types import ImageInput
from safemirage.models.images import ImageError, image_problem, image_size, png, read_image
from tests.cases import case_file


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def shown_by_url(data: bytes) -> Image.Image:
    """What another program makes of what goes to a URL, transparency and rotation marks heeded."""
    head, _, body = ImageInput(data).data_uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(BytesIO(b64decode(body)))


def grey(value: int, dtype: str) -> Image.Image:
    return Image.fromarray(np.full((4, 5), value, dtype))


ODD: dict[str, Callable[[], bytes]] = {
    **{
        name: lambda name=name: case_file(f"images/{name}").read_bytes()
        for name in ("exif6.jpg", "transparent.png", "pal_tr.png", "gray16.png", "wide210.png")
    },
    "transparent colour": lambda: encoded(
        Image.new("RGB", (4, 3), (9, 8, 7)), transparency=(9, 8, 7)
    ),
    "palette with a transparent colour": lambda: encoded(Image.new("P", (4, 3), 1), transparency=1),
    "grey with alpha": lambda: encoded(Image.new("LA", (4, 3), (200, 0))),
    "one bit": lambda: encoded(Image.new("1", (4, 3), 1)),
    "profile and gamma": lambda: encoded(
        Image.new("RGB", (4, 3), (10, 20, 30)), icc_profile=b"a profile"
    ),
    "cmyk": lambda: encoded(Image.new("CMYK", (4, 3), (10, 200, 30, 40)), "JPEG"),
    "tiff": lambda: encoded(grey(40_000, "uint16"), "TIFF"),
    "two frames": lambda: encoded(
        Image.new("RGB", (4, 3), "red"),
        "GIF",
        save_all=True,
        append_images=[Image.new("RGB", (4, 3), "blue")],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_every_engine_sees_the_same_pixels(name: str) -> None:
    data = ODD[name]()
    here = read_image(data)
    there = shown_by_url(data)
    assert there.mode == "RGB"
    assert there.info == {}
    assert there.tobytes() == here.tobytes()


def test_case_a_rotation_mark_is_not_applied() -> None:
    path = case_file("images/exif6.jpg")
    with Image.open(path) as stored:
        assert stored.getexif()[0x0112] == 6
        assert read_image(path).size == stored.size == image_size(path)


def test_case_grey_of_16_bits_is_scaled() -> None:
    path = case_file("images/gray16.png")
    with Image.open(path) as stored:
        expected = np.asarray(stored) / 65535 * 255
    pixels = np.asarray(read_image(path))
    assert np.abs(pixels - expected[..., None]).max() <= 0.5
    assert 110 < pixels.mean() < 135


def test_grey_of_16_bits_reaches_black_and_white() -> None:
    for value, expected in ((0, 0), (65535, 255), (257 * 100, 100)):
        assert read_image(encoded(grey(value, "uint16"))).getpixel((0, 0)) == (expected,) * 3


@pytest.mark.parametrize(
    "image",
    [grey(70_000, "int32"), grey(-1, "int32"), grey(1, "float32")],
    ids=["too-bright", "negative", "float"],
)
def test_grey_of_32_bits_is_refused_with_the_way_out(image: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "depth.tiff"
    path.write_bytes(encoded(image, "TIFF"))
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"depth\.tiff.*no agreed white; save it as 8 or 16"):
            read(path)


def test_transparency_is_dropped() -> None:
    data = encoded(Image.new("RGBA", (5, 4), (10, 20, 30, 0)))
    assert read_image(data).getpixel((0, 0)) == (10, 20, 30)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"12 bytes.*cannot be read"):
        read_image(path.read_bytes())
    with pytest.raises(ImageError, match=r"image\.png.*cannot be read"):
        image_size(path)
    with pytest.raises(ImageError, match="12 bytes"):
        png(b"not an image")
    assert image_problem(b"not an image") == "is not an image that can be read"
    assert image_problem(encoded(Image.new("RGB", (4, 3)))) is None


def test_broken_images_raise_nothing_else() -> None:
    """Pillow raises more than it documents over broken files."""
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = encoded(Image.effect_noise((30, 20), 80).convert("RGB"), kind)
        for _ in range(40):
            broken = bytearray(whole[: random.integers(8, len(whole) + 1)])
            for place in random.integers(4, len(broken), 4):
                broken[place] = random.integers(256)
            image_problem(bytes(broken))
            with suppress(ImageError):
                assert read_image(bytes(broken)).mode == "RGB"
