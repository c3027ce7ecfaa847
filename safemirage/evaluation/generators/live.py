"""A transformers model that answers whoever asks, at any time: requests enter and leave its rows at every step.

The service's engine. In-process evaluations use `TransformersGenerator`, whose model, prompts and decoder this one works
with, so that in float32 both give the same greedy answers.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Thread

import torch
from PIL.Image import Image
from torch import Tensor

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.decoding.choice import likeliest, penalised
from safemirage.evaluation.generators.decoding.padding import Hearing, PaddedDecoder
from safemirage.evaluation.generators.decoding.shared_prefix import (
    Rows,
    SharedPrefixDecoder,
    Waiting,
    image_end,
)
from safemirage.evaluation.generators.speech import Chance, ChatAnswer, Delta, Speech, whole
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import ChatOptions, ChatRequest, Request
from safemirage.models.images import ImageError, read_image
from safemirage.models.prompts import PromptError

_KEPT_IMAGES = 16
"""Encoded images that are kept: the next question is often about the same one."""
_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Asked:
    """A request from its arrival to its answer."""

    loop: asyncio.AbstractEventLoop
    streamed: bool
    """Whether its caller wants to hear of every step, not only of the end."""
    told: "asyncio.Queue[Delta | Exception]" = field(default_factory=asyncio.Queue)
    left: bool = False
    """Whether its caller went away."""
    speech: Speech | None = None
    waiting: Waiting | None = None
    opened: Mapping[str, Image] = field(default_factory=dict)
    """Its images, by digest."""


class LiveTransformers:
    """One model and the thread that steps it."""

    def __init__(self, generator: TransformersGenerator) -> None:
        self._generator = generator
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: deque[_Asked] = deque()
        self._running: list[_Asked] = []
        self._images: OrderedDict[str, Tensor] = OrderedDict()
        self._rows: Rows | None = None
        self._thread = Thread(target=self._run, name="rows", daemon=True)
        self._thread.start()

    @property
    def key(self) -> Mapping[str, str]:
        return self._generator.key

    @property
    def size(self) -> int:
        """Answers in the making at a time."""
        return self._generator.decoder.rows

    async def answer(self, request: Request, decoding: DecodingConfig) -> ChatAnswer:
        """The whole answer. A caller that is cancelled leaves its row."""
        return whole([delta async for delta in self._deltas(request, decoding, streamed=False)])

    def stream(self, request: Request, decoding: DecodingConfig) -> AsyncIterator[Delta]:
        """The answer token by token. A caller that closes it leaves its row."""
        return self._deltas(request, decoding, streamed=True)

    def close(self) -> None:
        """Waits for the requests that it has, and ends the thread."""
        self._work.put(None)
        self._thread.join()
        self._generator.close()

    async def _deltas(
        self, request: Request, decoding: DecodingConfig, *, streamed: bool
    ) -> AsyncIterator[Delta]:
        asked = _Asked(loop=asyncio.get_running_loop(), streamed=streamed)
        self._work.put(partial(self._take, asked, request, decoding))
        try:
            while True:
                said = await asked.told.get()
                if isinstance(said, Exception):
                    raise said
                yield said
                if said.finish_reason is not None:
                    return
        finally:
            asked.left = True

    # All below runs in the engine's thread.

    @torch.inference_mode()
    def _run(self) -> None:
        is_open = True
        while is_open or self._waiting or self._running:
            # Waits for work only where there is nothing to do.
            while is_open and (not (self._waiting or self._running) or not self._work.empty()):
                work = self._work.get()
                is_open = work is not None
                if work is not None:
                    work()
            try:
                self._step()
            except Exception as error:
                _LOG.exception("a step failed")
                self._fail(GeneratorUnavailable(f"the engine failed: {type(error).__name__}"))

    def _fail(self, error: Exception) -> None:
        for asked in (*self._running, *self._waiting):
            _say(asked, error)
        self._running, self._rows = [], None
        self._waiting.clear()

    def _take(self, asked: _Asked, request: Request, decoding: DecodingConfig) -> None:
        if asked.left:
            return
        try:
            self._prepare(asked, request, decoding)
        except (PromptError, ImageError) as error:
            _say(asked, RequestRejected(str(error)))
        except Exception as error:
            _LOG.exception("a request could not be prepared")
            _say(asked, GeneratorUnavailable(f"the engine failed: {type(error).__name__}"))
        else:
            self._waiting.append(asked)

    def _prepare(self, asked: _Asked, request: Request, decoding: DecodingConfig) -> None:
        options = request.options if isinstance(request, ChatRequest) else ChatOptions()
        opened = {image.digest: read_image(image.data) for image in request.images}
        prompt = self._generator.tokenized(request, opened, decoding)
        speech = Speech(
            self._generator.decode,
            prompt_tokens=len(prompt.ids),
            limit=prompt.limit,
            stop_ids=self._generator.stop_ids,
            stop=options.stop,
        )
        end = image_end(prompt.ids, self._generator.image_token_id)
        digests = [image.digest for image in request.images]
        asked.speech, asked.opened = speech, opened
        asked.waiting = Waiting(
            prompt=prompt,
            # Up to its images: what follows differs from question to question.
            prefix=min(end, len(prompt.ids) - 1),
            group=(prompt.image, prompt.ids[:end]),
            images=partial(self._features, digests, opened),
            decoding=request.decoded_by(decoding),
            weigh=_weigher(speech, options),
            hear=partial(self._hear, speech, options),
        )

    def _features(self, digests: Sequence[str], opened: Mapping[str, Image]) -> list[Tensor]:
        missing = [name for name in dict.fromkeys(digests) if name not in self._images]
        if missing:
            found = self._generator.image_features(opened).of(missing)
            self._images.update(zip(missing, found, strict=True))
        seen = [self._images[name] for name in digests]
        for name in digests:
            self._images.move_to_end(name)
        while len(self._images) > _KEPT_IMAGES:
            self._images.popitem(last=False)
        return seen

    def _hear(self, speech: Speech, options: ChatOptions, token: int, logits_V: Tensor) -> bool:
        chance = None
        if options.top_logprobs is not None:
            logprob, top = likeliest(logits_V, token, options.top_logprobs)
            spoken = self._generator.token_text
            chance = Chance(
                text=spoken(token),
                logprob=logprob,
                top=tuple((spoken(one), value) for one, value in top),
            )
        return speech.hear(token, chance)

    def _step(self) -> None:
        """Gives every row its next token, or new rows their first; a whole batch where rows cannot be refilled."""
        self._let_go()
        if not (self._waiting or self._running):
            return
        decoder = self._generator.decoder
        if isinstance(decoder, PaddedDecoder):
            self._pass(decoder)
            return
        assert isinstance(decoder, SharedPrefixDecoder), "the two decoders"
        rows = self._rows
        if rows is None:
            cache = decoder.room(decoder.rows + 1, max(map(_columns, self._waiting)))
            rows = self._rows = Rows(decoder, cache, self._generator.stop_ids)
        if rows.takes(len(self._waiting)):
            new = [self._waiting.popleft() for _ in range(min(rows.free, len(self._waiting)))]
            self._running += new
            rows.widen(max(map(_columns, new)))
            rows.admit([_of(asked) for asked in new])
        else:
            rows.step()
        self._tell(self._running)

    def _let_go(self) -> None:
        """Takes out those whose callers went away."""
        for asked in [one for one in self._running if one.left]:
            if self._rows is not None:
                self._rows.drop(_of(asked))
        self._running = [one for one in self._running if not one.left]
        self._waiting = deque(one for one in self._waiting if not one.left)

    def _pass(self, decoder: PaddedDecoder) -> None:
        """Answers those that wait longest, in one batch: families whose rows cannot be refilled."""
        decoding = _of(self._waiting[0]).decoding
        alike = [one for one in self._waiting if _alike(_of(one).decoding, decoding)]
        batch = self._running = alike[: decoder.rows]
        self._waiting = deque(one for one in self._waiting if one not in batch)
        prompts = [_of(asked).prompt for asked in batch]

        def weigh(row: int, logits_V: Tensor) -> Tensor:
            one = _of(batch[row]).weigh
            return logits_V if one is None else one(logits_V)

        def hear(row: int, token: int, logits_V: Tensor) -> bool:
            asked, listener = batch[row], _of(batch[row]).hear
            assert listener is not None, "set as it is prepared"
            ended = listener(token, logits_V)
            self._tell([asked])
            return ended or asked.left

        images = {name: image for asked in batch for name, image in asked.opened.items()}
        features = self._generator.image_features(images)
        hearing = Hearing(weigh, hear, len(batch))
        decoder.decode_heard(prompts, features, decoding, self._generator.stop_ids, hearing)
        self._running = []

    def _tell(self, rows: Sequence[_Asked]) -> None:
        """Tells callers what is new: at every step where they want to hear it, else at the end."""
        size = len(self._running)
        for asked in rows:
            assert asked.speech is not None, "set as it is prepared"
            if asked.streamed or asked.speech.finish_reason is not None:
                _say(asked, asked.speech.tell(size))
        self._running = [
            one for one in self._running if one.speech and one.speech.finish_reason is None
        ]


def _say(asked: _Asked, said: Delta | Exception) -> None:
    if not asked.left and not asked.loop.is_closed():
        asked.loop.call_soon_threadsafe(asked.told.put_nowait, said)


def _of(asked: _Asked) -> Waiting:
    assert asked.waiting is not None, "set as it is prepared"
    return asked.waiting


def _columns(asked: _Asked) -> int:
    prompt = _of(asked).prompt
    return len(prompt.ids) + prompt.limit


def _alike(one: DecodingConfig, other: DecodingConfig) -> bool:
    """Whether two decodings can share a batch: all but length and seed, which rows have of their own."""
    left, right = one.effective, other.effective
    return (left.temperature, left.top_p) == (right.temperature, right.top_p)


def _weigher(speech: Speech, options: ChatOptions) -> Callable[[Tensor], Tensor] | None:
    frequency, presence = options.frequency_penalty, options.presence_penalty
    if frequency == 0 and presence == 0:
        return None
    return lambda logits_V: penalised(
        logits_V, speech.counts, frequency=frequency, presence=presence
    )
