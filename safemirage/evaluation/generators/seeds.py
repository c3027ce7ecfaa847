"""The seed of one sampled answer: it follows from the request, so neighbours in a batch change nothing."""

import hashlib

from safemirage.config.evaluate import DecodingConfig


def sampling_seed(prompt: str, image_digest: str | None, decoding: DecodingConfig) -> int:
    """A number in [0, 2**63) from rendered prompt, image and `decoding.seed`."""
    content = f"{decoding.seed}\0{image_digest or ''}\0{prompt}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
