"""The words of what is measured: labels of answers, the metrics that count them, the protocols that count."""

from typing import Literal, cast, get_args

Label = Literal["comply", "refuse", "deflect", "degenerate", "other", "unscored"]
"""`deflect`: sensible, but neither complies nor refuses; `degenerate`: repetition, nothing, the wrong script;
`other`: one of both, from a judge that does not tell them apart."""
Metric = Literal[
    "asr",
    "refusal_rate",
    "useful_rate",
    "response_asr",
    "irrelevant_rate",
    "deflection_rate",
    "degenerate_rate",
]
ProtocolName = Literal["corrected", "paper"]


def check_protocol(protocol: str) -> ProtocolName:
    """Raises ValueError for a protocol that does not exist."""
    for known in get_args(ProtocolName):
        if protocol == known:
            return cast("ProtocolName", known)
    raise ValueError(f"protocol: {protocol!r} is unknown; allowed: 'corrected', 'paper'")
