"""Images that stay on the disk."""

import pickle
from pathlib import Path

from safemirage.evaluation.cases import ImageFile, ImageInput
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
