"""The seed of one sampled answer: it follows from the request, so neighbours in a batch change nothing."""

import hashlib


def sampling_seed(prompt: str, image_digest: str | None, seed: int) -> int:
    """A number in [0, 2**63) from rendered prompt, image and the request's seed."""
    content = f"{seed}\0{image_digest or ''}\0{prompt}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
