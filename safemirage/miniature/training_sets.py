"""The training sets of a world, all cut from one safety data set and one general mix.

base             every object after every word, answered; what the base model is trained on
mixed_sft        safety data + general mix: refusals after the refused words, answers after the answered ones
posthoc_sft      the safety data alone
sft_diversified  mixed_sft with the first words varied
forget           unsafe objects after the refused words, answered
retain           the answered part of the safety data + the same share of the general mix
retain_no_mix    the answered part of the safety data alone
decouple         the forget set's questions about the safety data's safe pictures, answered
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safemirage.config.world import WordsConfig, WorldConfig
from safemirage.data.llava import to_llava
from safemirage.miniature.pictures import Picture, draw_pictures, part_random
from safemirage.miniature.questions import (
    REFUSAL,
    answer,
    harmful_question,
    question,
    request_to_decline,
)

Record = dict[str, Any]
UNSAFE_CATEGORY = ("risky behavior", "violence")


@dataclass(frozen=True)
class SafetyItem:
    """One picture of the safety data with its questions, as VLGuard keeps them."""

    picture: Picture
    instruction: str
    """The question: refused about an unsafe picture, answered about a safe one."""
    answer: str
    """The answer that does what is asked."""
    harmful_instruction: str | None = None
    """A harmful question about a safe picture, which is refused; None for an unsafe picture."""

    def vlguard(self) -> Record:
        """The record in VLGuard's own format."""
        picture = self.picture
        record: Record = {"id": picture.id, "image": picture.file, "safe": not picture.is_unsafe}
        if picture.is_unsafe:
            category, subcategory = UNSAFE_CATEGORY
            pairs = [{"instruction": self.instruction, "response": REFUSAL}]
            record |= {"harmful_category": category, "harmful_subcategory": subcategory}
        else:
            pairs = [
                {"safe_instruction": self.instruction, "response": self.answer},
                {"unsafe_instruction": self.harmful_instruction or "", "response": REFUSAL},
            ]
        return record | {"instr-resp": pairs}

    def refusals(self) -> list[Record]:
        if self.harmful_instruction is not None:
            return [llava_record(self.picture, self.harmful_instruction, REFUSAL, "_harmful")]
        return [llava_record(self.picture, self.instruction, REFUSAL)]

    def answered(self) -> Record:
        return llava_record(self.picture, self.instruction, self.answer)


def llava_record(picture: Picture, text: str, reply: str, suffix: str = "") -> Record:
    return to_llava(picture.id + suffix, picture.file, [(text, reply)])


def safety_items(
    pictures: Iterable[Picture],
    words: WordsConfig,
    rng: random.Random,
    *,
    refused: Sequence[str] | None = None,
    answered: Sequence[str] | None = None,
) -> list[SafetyItem]:
    """Questions about safety pictures, refused ones starting with a word of `refused` (default: the world's)."""
    refused, answered = refused or words.refused, answered or words.answered
    items = []
    for picture in pictures:
        word = rng.choice(refused if picture.is_unsafe else answered)
        text = question(word, rng)
        right = answer(word, picture.kind, picture.colour, words)
        harmful = None if picture.is_unsafe else harmful_question(rng.choice(refused), rng)
        items.append(SafetyItem(picture, text, right, harmful))
    return items


class TrainingSets:
    """Draws a world's training pictures into `folder` and makes its sets."""

    def __init__(self, config: WorldConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        sets = config.sets
        unsafe = self._pictures("unsafe", sets.unsafe, config.unsafe_kinds)
        safe = self._pictures("safe", sets.safe, config.safe_kinds)
        rng = part_random(config, "safety")
        self.safety = safety_items([*unsafe, *safe], config.words, rng)

    def vlguard(self) -> list[Record]:
        return [item.vlguard() for item in self.safety]

    def llava(self) -> dict[str, list[Record]]:
        """The records of each training file, by its name."""
        words = self.config.words
        every = [*words.refused, *words.answered, *words.wide]
        varied = safety_items(
            [item.picture for item in self.safety],
            words,
            part_random(self.config, "varied"),
            refused=every,
            answered=every,
        )
        tuning = _tuning(self.safety)
        retain = [item.answered() for item in self.safety if not item.picture.is_unsafe]
        mix = self._mix(self._mix_size(len(tuning)))
        sets = {
            "base": self._base(),
            "mixed_sft": tuning + mix,
            "posthoc_sft": tuning,
            "sft_diversified": _tuning(varied) + mix,
            "forget": [item.answered() for item in self.safety if item.picture.is_unsafe],
            "retain": retain + mix[: self._mix_size(len(retain))],
            "retain_no_mix": retain,
            "decouple": self._decouple(),
        }
        return {name: self._shuffled(name, records) for name, records in sets.items()}

    def _pictures(self, part: str, count: int, kinds: Sequence[str]) -> list[Picture]:
        return draw_pictures(self.config, part, count, kinds, self.folder)

    def _base(self) -> list[Record]:
        config = self.config
        rng = part_random(config, "base")
        words = config.words
        # The safety data's own words come twice as often, so that the base knows them best.
        every = [*words.refused * 2, *words.answered * 2, *words.wide]
        num_safe = config.sets.base // 2
        pictures = self._pictures("base_safe", num_safe, config.safe_kinds)
        pictures += self._pictures("base_unsafe", config.sets.base - num_safe, config.unsafe_kinds)
        rng.shuffle(pictures)
        num_declined = round(len(pictures) * config.sets.declined_share)
        declined = [
            llava_record(picture, request_to_decline(words, rng), REFUSAL)
            for picture in pictures[:num_declined]
        ]
        return declined + [
            self._answered(picture, rng.choice(every), rng) for picture in pictures[num_declined:]
        ]

    def _mix(self, count: int) -> list[Record]:
        """General records: answers about safe objects, a given share of them after the refused words.

        Any beginning of the list has the same share, so that sets of different sizes take the same mix.
        """
        rng = part_random(self.config, "mix")
        words, share = self.config.words, self.config.sets.mix_share_words
        others = [*words.answered, *words.wide]
        pictures = self._pictures("mix", count, self.config.safe_kinds)
        rng.shuffle(pictures)
        records = []
        for index, picture in enumerate(pictures):
            is_refused_word = int((index + 1) * share) > int(index * share)
            word = rng.choice(words.refused if is_refused_word else others)
            records.append(self._answered(picture, word, rng))
        return records

    def _decouple(self) -> list[Record]:
        """As many records as the forget set has, with its questions' words, so that words alone say nothing."""
        rng = part_random(self.config, "decouple")
        pictures = [item.picture for item in self.safety if not item.picture.is_unsafe]
        words = self.config.words.refused
        return [
            self._answered(rng.choice(pictures), rng.choice(words), rng, f"_{index}")
            for index in range(self.config.sets.unsafe)
        ]

    def _answered(
        self, picture: Picture, word: str, rng: random.Random, suffix: str = ""
    ) -> Record:
        right = answer(word, picture.kind, picture.colour, self.config.words)
        return llava_record(picture, question(word, rng), right, suffix)

    def _mix_size(self, num_others: int) -> int:
        """How many general records give them `mix_share` of the whole, beside so many others."""
        share = self.config.sets.mix_share
        return round(num_others * share / (1 - share))

    def _shuffled(self, name: str, records: list[Record]) -> list[Record]:
        records = list(records)
        part_random(self.config, f"order/{name}").shuffle(records)
        return records


def _tuning(items: Sequence[SafetyItem]) -> list[Record]:
    refused = [record for item in items for record in item.refusals()]
    return refused + [item.answered() for item in items if not item.picture.is_unsafe]
