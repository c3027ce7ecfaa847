"""The one decoder of images: what a file shows is decided here, for training and for every engine that answers or judges.

The rule, in order:
1. The first frame, as it is stored: a camera's rotation mark (EXIF) is not applied, as in LLaVA's training.
2. Transparency is dropped: a pixel has the colour that is stored under it. A palette stands for its colours.
3. Grey of 16 bits is scaled to 8: 65535 is white. Grey of 32 bits has no agreed white and is refused.
4. Every other mode becomes RGB as Pillow converts it; colour profiles are not applied.

Engines in this process take these pixels, and one behind a URL is sent a PNG of them (`png`).
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_WHITE_16 = 65535


class ImageError(ValueError):
    """An image that cannot be shown to a model; the message says what and why."""


def read_image(source: bytes | Path) -> Image.Image:
    """The image's pixels as RGB, by the rule above, with nothing else that the file says of them.

    Raises:
        ImageError: it cannot be read as an image, or is grey of 32 bits.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            rgb = _rgb(image)
    except Exception as error:  # broken files make Pillow raise far more than it documents
        name = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
        raise ImageError(f"image ({name}) cannot be read: {error}") from error
    rgb.info.clear()  # profile, gamma and transparent colour would go into a PNG
    return rgb


def png(source: bytes | Path) -> bytes:
    """An encoded image as PNG of its pixels. Raises ImageError as `read_image` does."""
    stream = BytesIO()
    read_image(source).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file that can be read to its end; a JPEG is decoded at an eighth of its size.

    Raises:
        ImageError: it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft("RGB", (1, 1))
            _rgb(image)
            return size
    except Exception as error:  # as above
        raise ImageError(f"image {path} cannot be read: {error}") from error


def image_problem(data: bytes) -> str | None:
    """What is wrong with an encoded image, as far as can be told without decoding it, or None."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.verify()
    except UnidentifiedImageError:
        return "is not an image that can be read"
    except Exception as error:  # as above
        return f"cannot be read: {error}"
    return None


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    image.info.pop("transparency", None)
    if image.mode not in (*_GREY_16, "I", "F"):
        return image.convert("RGB")
    values = np.asarray(image)
    # Pillow reads some files of 16 bits into numbers of 32.
    if image.mode == "F" or values.min() < 0 or values.max() > _WHITE_16:
        raise ValueError(
            f"grey of 32 bits (mode {image.mode}) has no agreed white; save it as 8 or 16 bits"
        )
    grey = (values.astype(np.uint32) * 255 + _WHITE_16 // 2) // _WHITE_16
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
