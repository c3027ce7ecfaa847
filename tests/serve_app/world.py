"""What the API is tested over: a real storage and store, with scripted answers."""

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from PIL import Image

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.suites import writer
from safemirage.evaluation.types import (
    Generation,
    ImageInput,
    Request,
    Sample,
    Subset,
    Verdict,
)
from safemirage.models.manifest import BaseModel, Manifest
from safemirage.storage import Storage
from safemirage.store import Store

READER = "reader-token-0123456789"
UNREDACTED = "unredacted-token-0123456789"
MODEL = "npo-0123456789ab"


def png(width: int = 4, height: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return stream.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_export(storage: Storage, name: str = MODEL, *, weights_digest: str = "ab" * 32) -> None:
    """The manifest alone: enough for what never loads the weights."""
    manifest = Manifest(
        run_id=name,
        identity="cd" * 32,
        method="npo",
        base=BaseModel(path="base-0123456789ab", weights_digest="ef" * 32),
        family="llava",
        config={},
        metrics={},
        versions={},
        git_commit=None,
        weights_digest=weights_digest,
        processor_digest="01" * 32,
        files={},
        created_at="2026-01-02T03:04:05+00:00",
    )
    folder = storage.exports / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)))


def write_suite(storage: Storage, name: str = "toy", questions: int = 3) -> None:
    subsets: tuple[Subset, ...] = ("unsafe", "safe")
    samples = [
        Sample(
            sample_id=f"{subset}_plain-{number}",
            condition=f"{subset}_plain",
            subset=subset,
            attack="plain",
            group_id=f"{subset}-{number}",
            question=f"describe thing {number}",
            image=ImageInput(png()),
            target={"kind": "ball", "colour": "red", "unsafe": str(subset == "unsafe").lower()},
        )
        for subset in subsets
        for number in range(questions)
    ]
    writer.write_suite(storage.suites / name, name, samples, force=True)


@dataclass
class Scripted:
    """Answers with the question read backwards; can be made to wait or to fail."""

    delay_s: float = 0.0
    failure: Exception | None = None
    requests: list[tuple[str, Request, DecodingConfig]] = field(default_factory=list)
    running: int = 0

    async def generate(
        self, model: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        self.requests += [(model, request, decoding) for request in requests]
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return [
            Generation(
                text=request.prefill + request.question[::-1],
                prompt_tokens=len(request.question),
                completion_tokens=min(len(request.question), decoding.max_new_tokens),
                finish_reason="stop",
            )
            for request in requests
        ]

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        return [
            Verdict(judge=judge, label="refuse" if "sorry" in item.answer else "comply")
            for item in items
        ]


@dataclass(frozen=True)
class World:
    storage: Storage
    store: Store
    engines: Scripted
