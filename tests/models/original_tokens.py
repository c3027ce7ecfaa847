"""How the original turns a conversation into token ids and labels, from its description: what `convert` is measured against.

The tokenizer is the slow LlamaTokenizer of transformers 4.37, on SentencePiece directly. A prompt is cut at `<image>`; each
stretch is tokenised by itself, its start token dropped but for the first; -200 stands for the image. Labels: round by
round, lengths of the tokenised round and of its instruction; where they do not add up, the whole record is left out.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

IMAGE = -200
IGNORED = -100
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
_SPACES = ("\N{LOWER ONE EIGHTH BLOCK}", " ")


class SlowLlama:
    def __init__(self, model: Path, *, legacy: bool) -> None:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())
        if not legacy:
            proto.normalizer_spec.add_dummy_prefix = False
        self.legacy = legacy
        self._pieces: Any = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._length_of_unknown = len(self._pieces.encode("<unk>"))

    def __call__(self, text: str) -> list[int]:
        if not self.legacy and text:
            text = _SPACES[0] + text.replace(*_SPACES)
        ids: list[int] = []
        for stretch in re.split("(<unk>|<s>|</s>)", text):
            if stretch in _SPECIAL:
                ids.append(_SPECIAL[stretch])
            elif stretch:
                ids += self._stretch(stretch)
        return [1, *ids]

    def _stretch(self, text: str) -> list[int]:
        if self.legacy or not text.startswith(_SPACES):
            return list(self._pieces.encode(text))
        return list(self._pieces.encode("<unk>" + text)[self._length_of_unknown :])


def prompt_of(turns: Sequence[tuple[str, str]], *, image: bool) -> str:
    text = SYSTEM + " "
    for index, (question, answer) in enumerate(turns):
        mark = "<image>\n" if image and index == 0 else ""
        text += f"USER: {mark}{question} ASSISTANT: {answer}</s>"
    return text


def image_ids(text: str, tokenizer: SlowLlama) -> list[int]:
    """The ids of a text with images in it."""
    first, *others = [tokenizer(stretch) for stretch in text.split("<image>")]
    return first + [number for stretch in others for number in (IMAGE, *stretch[1:])]


def ids_and_labels(
    turns: Sequence[tuple[str, str]], tokenizer: SlowLlama, *, image: bool
) -> tuple[list[int], list[int]]:
    def ids_of(text: str) -> list[int]:
        return image_ids(text, tokenizer) if image else tokenizer(text)

    text = prompt_of(turns, image=image)
    ids = ids_of(text)
    labels = list(ids)
    labels[0] = IGNORED
    place = 1
    for index, spoken in enumerate(text.split("</s>")):
        parts = spoken.split(" ASSISTANT: ")
        if not spoken or len(parts) != 2:
            break
        # A round by itself starts with a blank that it does not have in its place.
        later = int(index > 0 and not tokenizer.legacy)
        length = len(ids_of(spoken)) - later
        instruction = len(ids_of(parts[0] + " ASSISTANT: ")) - 2 - later
        labels[place : place + instruction] = [IGNORED] * instruction
        place += length
    labels[place:] = [IGNORED] * len(labels[place:])
    if place != len(ids):
        labels = [IGNORED] * len(ids)
    return ids, labels
