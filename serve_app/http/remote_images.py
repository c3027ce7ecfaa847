"""Images that a request names by URL: fetched from the origins that the operator allows, and from no other.

A service that fetches what callers name reaches whatever it can reach itself, so nothing is allowed by default, no
redirect is followed, and no proxy or credential of the environment is used.
"""

import httpx

from safemirage.config.serve import LimitsConfig
from serve_app.http.errors import ApiError


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
