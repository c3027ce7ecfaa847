"""Images that stay on the disk."""

import base64
import io
import pickle
from pathlib import Path

import pytest
from PIL import Image

from safemirage.evaluation.types import ImageFile, ImageInput
from tests.evaluation.samples import make_image


def test_image_file_is_the_image_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(make_image().data)
    image = ImageFile(path)
    assert image.data == make_image().data
    assert image.digest == make_image().digest
    assert image.data_uri == make_image().data_uri


def test_image_file_travels_with_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(make_image().data)
    packed = pickle.dumps(ImageFile(path))
    path.unlink()
    assert pickle.loads(packed) == ImageInput(make_image().data)


@pytest.mark.parametrize("name", ["BMP", "TIFF"])
def test_image_of_another_format_is_shown_as_png_of_the_same_pixels(name: str) -> None:
    pixels = Image.effect_noise((6, 4), 80).convert("RGB")
    stream = io.BytesIO()
    pixels.save(stream, name)
    head, _, body = ImageInput(stream.getvalue()).data_uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as shown:
        assert shown.tobytes() == pixels.tobytes()


def test_image_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"8 bytes.*cannot be read"):
        _ = ImageInput(b"no image").data_uri
