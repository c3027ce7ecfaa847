"""Control tokens (`<|im_end|>`, `</s>`, `<image>`) belong to the chat template; in anybody's text they are text.

A tokenizer reads a control token wherever its name stands, so an answer that holds `<|im_end|><|im_start|>assistant`
would end its own place in a judge's prompt. Here the template's control tokens are told from those in the texts that
are put into it: before rendering, the texts' ones become marks; after it, what is left is the template's own, and goes
by a secret name in a copy of the tokenizer that has no other names for control tokens. The rendered text is still
tokenised at once, because tokens may join across any seam: ids of texts that hold no control token are those of the
tokenizer itself.
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import Encoding, Tokenizer

from safemirage.config.loading.load import ConfigError

_ESCAPE = "\U000f0000"
"""Stands around the number of a mark. From a private area of Unicode; where a text holds it, it is marked itself."""


class ControlTokens:
    """The control tokens of one tokenizer: those that it calls special, and the one that stands for an image."""

    def __init__(self, tokenizer: Any, image_token: str) -> None:
        """Raises ConfigError for a tokenizer that is written in Python."""
        if not tokenizer.is_fast:
            raise ConfigError(
                f"model.path: its tokenizer is a {type(tokenizer).__name__} written in Python, which cannot tell control "
                "tokens from text; give the model a tokenizer.json"
            )
        backend: Tokenizer = tokenizer.backend_tokenizer
        added = backend.get_added_tokens_decoder()
        names = [t.content for t in added.values() if t.special or t.content == image_token]
        self._marked = [_ESCAPE, *names]
        self._marks = {name: f"{_ESCAPE}{n}{_ESCAPE}" for n, name in enumerate(self._marked)}
        self._in_text = _any_of(self._marked)
        self._in_rendered = re.compile(f"{_ESCAPE}([0-9]+){_ESCAPE}|{_any_of(names).pattern}")
        nonce = secrets.token_hex(8)  # so that no text can hold a secret name
        self._secret = {name: f"{_ESCAPE}{nonce}_{n}{_ESCAPE}" for n, name in enumerate(names)}
        self._tokenizer = _renamed(backend, self._secret)

    def mark(self, text: str) -> str:
        """A text that is put into a template, with a mark for each control token in it."""
        return self._in_text.sub(lambda found: self._marks[found[0]], text)

    def secret(self, rendered: str) -> str:
        """Rendered text with the texts' marks as the characters that they stand for, and the template's own control
        tokens by their secret names: what `encode` takes."""
        return self._in_rendered.sub(self._plain_or_secret, rendered)

    def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
        """The ids, and the offsets into `text`, of what `secret` gave."""
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def _plain_or_secret(self, found: re.Match[str]) -> str:
        return self._secret[found[0]] if found[1] is None else self._marked[int(found[1])]


def _any_of(names: list[str]) -> re.Pattern[str]:
    """A pattern of all names, the longest first, as tokenizers match them."""
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))


def _renamed(backend: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """A copy of the tokenizer in which these tokens go by other names, under the same ids.

    The old names are taken out of the vocabulary too: models of whole words, and some of pieces, would find them there.
    """
    tree = json.loads(backend.to_str())
    # Some normalizers and pre-tokenizers treat what stands beside a control token otherwise.
    for part in ("normalizer", "pre_tokenizer"):
        tree[part] = _with_names(tree[part], names)
    for token in tree["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = tree["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): place for token, place in model["vocab"].items()}
    else:  # pieces with their scores
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in names]
    renamed = Tokenizer.from_str(json.dumps(tree))
    renamed.no_truncation()
    renamed.no_padding()
    for name, secret in names.items():
        assert renamed.token_to_id(secret) == backend.token_to_id(name), name
    return renamed


def _with_names(part: Any, names: Mapping[str, str]) -> Any:
    """A part of a tokenizer's description with the new names in its texts and patterns."""
    if isinstance(part, str):
        written = {
            form: secret for name, secret in names.items() for form in (name, re.escape(name))
        }
        return _any_of(list(written)).sub(lambda found: written[found[0]], part)
    if isinstance(part, dict):
        return {key: _with_names(value, names) for key, value in part.items()}
    return [_with_names(item, names) for item in part] if isinstance(part, list) else part
