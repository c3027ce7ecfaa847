"""An answer while it is spoken: token by token into text, ended by a stop text or an end token. Imports no torch.

Both engines of the service speak through it, so that a stream, joined, is the text of the whole answer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from safemirage.evaluation.types import Generation

Finish = Literal["stop", "length"]
_HALF = "\ufffd"
"""What a decoder writes for the bytes of a character that is not complete."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """A token and how likely it was, by the model's own distribution: before temperature, top_p and penalties."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at this place and their log-probabilities, most likely first."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What is new of an answer."""

    text: str
    chances: tuple[Chance, ...]
    prompt_tokens: int
    completion_tokens: int
    """Tokens of the answer so far."""
    finish_reason: Finish | None = None
    """Set in the last one."""
    rows: int = 0
    """Answers in the making beside it, itself included; 0 where the engine does not tell."""


@dataclass(frozen=True, kw_only=True)
class ChatAnswer(Generation):
    """A whole answer, with the chances of its tokens where they were asked for."""

    chances: tuple[Chance, ...] = ()
    rows: int = field(default=0, compare=False)
    """Answers in the making as it ended, itself included; 0 where the engine does not tell."""

    @property
    def generation(self) -> Generation:
        """It without the chances, as evaluations keep answers."""
        return Generation(
            text=self.text,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=self.finish_reason,
        )


def whole(deltas: Iterable[Delta]) -> ChatAnswer:
    """The answer that the deltas make together."""
    parts = list(deltas)
    last = parts[-1]
    assert last.finish_reason is not None, "the last delta says how the answer ended"
    return ChatAnswer(
        text="".join(part.text for part in parts),
        chances=tuple(chance for part in parts for chance in part.chances),
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        finish_reason=last.finish_reason,
        rows=last.rows,
    )


class Speech:
    """One answer: it hears tokens, and tells what is new of the text."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        prompt_tokens: int,
        limit: int,
        stop_ids: frozenset[int] = frozenset(),
        stop: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._prompt_tokens = prompt_tokens
        self._limit = limit
        self._stop_ids = stop_ids
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._chances: list[Chance] = []
        self._text = ""
        self._told = 0
        """Characters of the text that were told already."""
        self.finish_reason: Finish | None = None

    @property
    def counts(self) -> dict[int, int]:
        """How often each token was said."""
        return {token: self._ids.count(token) for token in set(self._ids)}

    def hear(self, token: int, chance: Chance | None = None) -> bool:
        """Takes the next token; True when the answer has ended by it."""
        self._ids.append(token)
        if chance is not None:
            self._chances.append(chance)
        if token in self._stop_ids or (self._stop and self._cut()):
            self.finish_reason = "stop"
        elif len(self._ids) >= self._limit:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def end(self, reason: Finish) -> None:
        """The engine itself ended the answer."""
        self.finish_reason = self.finish_reason or reason

    def tell(self, rows: int = 0) -> Delta:
        """What is new since the last time: text that no further token can change, and at the end all of it."""
        if not self._cut():
            self._text = self._decode(self._ids)
        end = len(self._text)
        if self.finish_reason is None:
            end -= self._open_end(self._text)
        # A text that changed behind what was told is told at the end, from the same place on.
        new = self._text[self._told : end]
        self._told = max(self._told, end)
        chances, self._chances = tuple(self._chances), []
        return Delta(
            text=new,
            chances=chances,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self._ids),
            finish_reason=self.finish_reason,
            rows=rows,
        )

    def _cut(self) -> bool:
        """Whether a stop text was said; the text then ends before the first of them."""
        if not self._stop:
            return False
        text = self._decode(self._ids)
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self._text = text[: min(places)].rstrip()
        return bool(places)

    def _open_end(self, text: str) -> int:
        """Characters at the end that may still change: half of a character, space that a decoder strips, and what may
        become a stop text."""
        kept = text.rstrip(_HALF).rstrip()
        longest = max((len(stop) for stop in self._stop), default=0)
        for size in range(min(longest - 1, len(kept)), 0, -1):
            if any(stop.startswith(kept[-size:]) for stop in self._stop):
                kept = kept[:-size].rstrip()
                break
        return len(text) - len(kept)
