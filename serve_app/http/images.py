"""Images in requests: data URIs and allowed URLs, checked by size and header before a decoder sees them.

A service that fetches what callers name reaches whatever it can reach itself, so no URL is allowed by default, no
redirect is followed, and no proxy or credential of the environment is used.
"""

import base64
import io
import re
import warnings

import httpx
from PIL import Image, UnidentifiedImageError

from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.types import ImageInput
from serve_app.http.errors import ApiError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""The image formats of the web, which alone are accepted."""
_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]+(?:;[a-z0-9-]+=[^;,]*)*;base64,", re.IGNORECASE)
"""With parameters between type and encoding, such as charset=utf-8, which some clients write."""


def read_image(url: str, *, limits: LimitsConfig, param: str) -> ImageInput:
    """The image in a data URI, or at a URL of an allowed origin.

    Raises:
        ApiError: it is a URL that may not be fetched, not base64, not an image of `FORMATS`, broken, or over the limits.
    """
    if url.startswith(("http://", "https://", "ftp://", "file:")):
        data = fetch_image(url, limits=limits, param=param)
    else:
        data = _decoded(url, limits, param)
    _check_pixels(data, limits, param)
    return ImageInput(data)


def _decoded(url: str, limits: LimitsConfig, param: str) -> bytes:
    head = _DATA_URI.match(url)
    if head is None:
        raise _bad("is not a data URI of the form data:image/png;base64,...", param)
    encoded = url[head.end() :]
    if len(encoded) * 3 // 4 - 2 > limits.image_bytes:
        raise ApiError(
            413, f"the image is over the limit of {limits.image_bytes} bytes", param=param
        )
    try:
        # The padding says nothing that the length does not; some clients leave it out.
        data = base64.b64decode(
            encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4), validate=True
        )
    except ValueError as error:  # binascii.Error, or letters that are not ASCII
        raise _bad(f"is not base64: {error}", param) from error
    if len(data) > limits.image_bytes:
        raise ApiError(
            413, f"the image is over the limit of {limits.image_bytes} bytes", param=param
        )
    return data


def _check_pixels(data: bytes, limits: LimitsConfig, param: str) -> None:
    """Reads the header first: a few kilobytes can decode to gigabytes."""
    try:
        with warnings.catch_warnings():
            # Our own limit, below, is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > limits.image_pixels:
                    raise ApiError(
                        413,
                        f"the image has {width} x {height} pixels; the limit is {limits.image_pixels} in all",
                        param=param,
                        code="image_too_large",
                    )
                _check_shape(width, height, limits, param)
                image.load()
    except Image.DecompressionBombError as error:
        raise ApiError(
            413, f"the image is too large: {error}", param=param, code="image_too_large"
        ) from error
    except UnidentifiedImageError as error:
        raise _bad(f"holds no image that can be read ({', '.join(FORMATS)})", param) from error
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for broken files
        raise _bad(
            f"holds no image that can be read ({', '.join(FORMATS)}): {error}", param
        ) from error


def _check_shape(width: int, height: int, limits: LimitsConfig, param: str) -> None:
    """Models scale the short side up to their own size, or pad to a square: a strip of few pixels becomes gigabytes."""
    short, long = sorted((width, height))
    if long > limits.image_side or long > limits.image_ratio * short:
        raise ApiError(
            413,
            f"the image is {width} x {height}; the longer side may have {limits.image_side} pixels and be "
            f"{limits.image_ratio:g} times the shorter",
            param=param,
            code="image_too_large",
        )


def _bad(what: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {what}", param=param, code="invalid_image")


def fetch_image(url: str, *, limits: LimitsConfig, param: str) -> bytes:
    """The encoded image at an http(s) URL.

    Raises:
        ApiError: its origin is not in `limits.image_origins`, it cannot be had in time, or it is over the limit.
    """
    _check_origin(url, limits, param)
    try:
        with (
            httpx.Client(
                timeout=limits.image_timeout_s, follow_redirects=False, trust_env=False
            ) as http,
            http.stream("GET", url) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _unavailable(url, f"answered {response.status_code}", param)
            return _read(response, limits, param)
    except httpx.HTTPError as error:
        raise _unavailable(url, f"{type(error).__name__}: {error}", param) from error


def origin_of(url: str) -> str | None:
    """`scheme://host[:port]` in lower case, the scheme's own port left out; None where `url` is no http(s) URL.

    User names and passwords before the host make it None: they only serve to dress up another host.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
        return None
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    port = "" if parsed.port is None else f":{parsed.port}"
    return f"{parsed.scheme}://{host}{port}"


def _check_origin(url: str, limits: LimitsConfig, param: str) -> None:
    allowed = {origin_of(origin) for origin in limits.image_origins}
    origin = origin_of(url)
    if origin is not None and origin in allowed:
        return
    known = ", ".join(limits.image_origins) or "none"
    raise ApiError(
        400,
        f"{param}: images are not fetched from {origin or 'there'} (limits.image_origins: {known}); "
        "send the image as data:image/png;base64,...",
        param=param,
        code="remote_image_refused",
    )


def _read(response: httpx.Response, limits: LimitsConfig, param: str) -> bytes:
    """The body, given up as soon as it is over the limit, whatever length it announced."""
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > limits.image_bytes:
            raise ApiError(
                413, f"the image is over the limit of {limits.image_bytes} bytes", param=param
            )
    return bytes(data)


def _unavailable(url: str, problem: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {url} {problem}", param=param, code="remote_image_unavailable")
