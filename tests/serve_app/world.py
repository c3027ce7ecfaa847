"""What the API is tested over: a real storage and store, with scripted answers."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from PIL import Image

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.speech import Chance, ChatAnswer, Delta, Speech, whole
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.suites import writer
from safemirage.evaluation.types import (
    ChatOptions,
    ChatRequest,
    ImageInput,
    Request,
    Sample,
    Subset,
    Verdict,
)
from safemirage.models.manifest import BaseModel, Manifest
from safemirage.storage import Storage
from safemirage.store import Store
from safemirage.store.tokens import (
    SCOPES,
    USUAL,
    Scope,
    TokenFile,
    TokenRecord,
    digest_of_token,
)
from serve_app.http.auth import Tokens

READER = "reader-token-0123456789"
"""A token of the usual scopes."""
UNREDACTED = "unredacted-token-0123456789"
ADMIN = "admin-token-0123456789"
SCOPES_OF: dict[str, tuple[Scope, ...]] = {
    READER: USUAL,
    UNREDACTED: (*USUAL, "unredacted"),
    ADMIN: SCOPES,
}
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


def token_record(token: str, scopes: Sequence[Scope], name: str = "") -> TokenRecord:
    return TokenRecord(
        name=name or token.partition("-")[0],
        digest=digest_of_token(token),
        scopes=tuple(scopes),
        created_at=datetime.now(UTC),
    )


def tokens_of(storage: Storage, scopes: Mapping[str, Sequence[Scope]] = SCOPES_OF) -> Tokens:
    """The service's tokens: those of its storage, and these."""
    given = [token_record(token, has) for token, has in scopes.items()]
    return Tokens(TokenFile(storage.tokens), given)


@dataclass
class Scripted:
    """Answers with the question read backwards; can be made to wait or to fail."""

    delay_s: float = 0.0
    """Before the first token."""
    pause_s: float = 0.0
    """Between tokens."""
    failure: Exception | None = None
    requests: list[tuple[str, Request, DecodingConfig]] = field(default_factory=list)
    running: int = 0

    async def answer(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> ChatAnswer:
        return whole([delta async for delta in self.stream(model, request, decoding, owner=owner)])

    async def stream(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> AsyncIterator[Delta]:
        """A letter is a token, as likely as it is old in the alphabet."""
        self.requests.append((model, request, decoding))
        self.running += 1
        try:
            await asyncio.sleep(self.delay_s)
            if self.failure is not None:
                raise self.failure
            options = request.options if isinstance(request, ChatRequest) else ChatOptions()
            speech = Speech(
                lambda ids: "".join(map(chr, ids)),
                prompt_tokens=len(request.question),
                limit=decoding.max_new_tokens,
                stop=options.stop,
            )
            letters = [*(request.prefill + request.question[::-1]), None]
            for letter in letters:
                if letter is None:
                    speech.end("stop")
                else:
                    chance = Chance(text=letter, logprob=-ord(letter) / 100)
                    speech.hear(ord(letter), None if options.top_logprobs is None else chance)
                yield speech.tell()
                if speech.finish_reason is not None:
                    return
                await asyncio.sleep(self.pause_s)
        finally:
            self.running -= 1

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        return [
            Verdict(judge=judge, label="unscored", reason="no answer")
            if not item.answer
            else Verdict(
                judge=judge,
                label="refuse" if "sorry" in item.answer else "comply",
                reason=item.answer[::-1],
            )
            for item in items
        ]


@dataclass(frozen=True)
class World:
    storage: Storage
    store: Store
    engines: Scripted
