"""The original's tokenizer, a slow LlamaTokenizer over a SentencePiece model, as files that give the same ids.

SentencePiece puts a blank before a text. The original cuts a prompt at its images and tokenises each stretch by itself,
so a blank stands at the start and after every image. Whether one stands after an end token too depends on `legacy` in
tokenizer_config.json: published checkpoints have either. What transformers makes of such files by itself follows the
config's `model_type` in the first place, joins pieces in another order, and loses the blank after an image.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from safemirage.models.conversion.layout import ConversionError, read_json

IMAGE_TOKEN = "<image>"
"""Stands for what the original splices in at index -200."""

_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a space."""
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": ("LlamaTokenizer", "LlamaTokenizerFast", None),
    "add_bos_token": (True, None),
    "add_eos_token": (False, None),
    "add_prefix_space": (True, None),
    "clean_up_tokenization_spaces": (False, None),
    "sp_model_kwargs": ({}, None),
}
"""What LLaVA-1.5's tokenizer_config.json says; with another value the ids would be others."""
_PROBES = (
    "A chat between a curious user and an assistant.",
    "\nWhat is  this?   Tell me,\tplease.",
    " lead, trail ",
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve 1,234.5% \N{WAVING HAND SIGN}\N{CJK UNIFIED IDEOGRAPH-4E2D}",
)


def convert_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """The checkpoint's own tokenizer, with a token for images.

    Raises:
        ConversionError: it is no LLaVA-1.5's.
    """
    settings = read_json(source / "tokenizer_config.json")
    for key, allowed in _SETTINGS.items():
        if settings.get(key) not in allowed:
            raise ConversionError(
                f"tokenizer_config.json: {key}: {settings[key]!r} is no LLaVA-1.5's; allowed: {allowed[0]!r}"
            )
    pieces = _read_pieces(source / "tokenizer.model")
    _refuse_added(source, settings, pieces.get_piece_size())
    bos, eos, unknown = (
        pieces.id_to_piece(index) for index in (pieces.bos_id(), pieces.eos_id(), pieces.unk_id())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_core(pieces, legacy=_is_legacy(settings)),
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        pad_token=_text(settings.get("pad_token")) or unknown,  # as the original does
        image_token=IMAGE_TOKEN,
        model_max_length=settings.get("model_max_length"),
        padding_side=settings.get("padding_side", "right"),
    )


def check_tokenizer(folder: Path, source: Path) -> int:
    """Compares the tokenizer in `folder` with the source's SentencePiece model itself: every piece of the vocabulary and
    some sentences, each before an image, after one and after an end token.

    Returns:
        How many texts were compared.

    Raises:
        ConversionError: a text has other ids.
    """
    legacy = _is_legacy(read_json(source / "tokenizer_config.json"))
    pieces = _read_pieces(source / "tokenizer.model")
    ordinary = [
        pieces.id_to_piece(index).replace(_BLANK, " ")
        for index in range(pieces.get_piece_size())
        if not (pieces.is_control(index) or pieces.is_byte(index) or pieces.is_unknown(index))
    ]
    texts = [*_PROBES, *ordinary]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    eos, image = tokenizer.eos_token, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    found = tokenizer([f"{text}{IMAGE_TOKEN}{text}{eos}{text}" for text in texts])["input_ids"]
    line_break = len(pieces.encode("\n"))
    for text, ids in zip(texts, found, strict=True):
        stretch = pieces.encode(text)
        ended = stretch if legacy else pieces.encode(f"\n{text}")[line_break:]
        expected = [pieces.bos_id(), *stretch, image, *stretch, pieces.eos_id(), *ended]
        if ids != expected:
            raise ConversionError(
                f"tokenizer.model: {text!r} before and after an image and after {eos} has the ids {ids}, and the "
                f"original's tokenizer gives {expected}"
            )
    return len(texts)


def check_image_blanks(tokenizer: Any) -> None:
    """Looks whether a tokenizer that was not converted here cuts a prompt at its images, as the original does.

    Raises:
        ConversionError: what stands after an image has other ids than by itself.
    """
    for text in _PROBES:
        alone = tokenizer(text)["input_ids"]
        start = [alone[0]] if alone[0] == tokenizer.bos_token_id else []
        image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        rest = alone[len(start) :]
        expected = [*start, *rest, image, *rest]
        if (found := tokenizer(f"{text}{IMAGE_TOKEN}{text}")["input_ids"]) != expected:
            raise ConversionError(
                f"the base's tokenizer gives {text!r} after an image the ids {found[len(expected) - len(rest) :]}, and "
                f"the original {rest}; convert the original's base by `safemirage convert` and name that"
            )


def _is_legacy(settings: Mapping[str, Any]) -> bool:
    return settings.get("legacy") in (True, None)


def _read_pieces(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise ConversionError(
            f"{path.parent}: no {path.name}, which the original's tokenizer is; copy it from the model that this "
            "checkpoint was trained on"
        )
    try:
        return SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise ConversionError(f"{path}: is no SentencePiece model: {error}") from error


def _refuse_added(source: Path, settings: dict[str, Any], size: int) -> None:
    """Raises ConversionError where tokens stand behind the SentencePiece model's: LLaVA-1.5 has none."""
    added = {text: int(index) for index, text in settings.get("added_tokens_decoder", {}).items()}
    if (source / "added_tokens.json").is_file():
        added |= read_json(source / "added_tokens.json")
    if beyond := sorted(_text(text) for text, index in added.items() if index >= size):
        raise ConversionError(f"added tokens {beyond}: LLaVA-1.5 has none beside tokenizer.model's")


def _text(token: Any) -> str:
    """A token's text, which some versions wrap."""
    return str(token["content"] if isinstance(token, dict) else token or "")


def _core(pieces: Any, *, legacy: bool) -> Tokenizer:
    size = pieces.get_piece_size()
    names = [pieces.id_to_piece(index) for index in range(size)]
    vocabulary = {name: index for index, name in enumerate(names)}
    control = [name for index, name in enumerate(names) if pieces.is_control(index)]
    unknown = pieces.id_to_piece(pieces.unk_id())
    special = [unknown, *control]
    whole = {*special, *(name for index, name in enumerate(names) if pieces.is_byte(index))}
    scores = {name: pieces.get_score(index) for name, index in vocabulary.items()}
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=generate_merges(vocabulary, scores, skip_tokens=whole),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[Any] = [normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)]
    if not legacy:
        # No blank before a special token that opens a stretch. So these keep their own text when they are normalised,
        # are found after it, and what follows them gets no blank either.
        words = "|".join(map(re.escape, special))
        steps.append(normalizers.Replace(Regex(rf"\A{_BLANK}(?={words})"), ""))
    core.normalizer = normalizers.Sequence(steps)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(_BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bos = pieces.id_to_piece(pieces.bos_id())
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, pieces.bos_id())]
    )
    core.add_special_tokens(
        [
            *(AddedToken(name, normalized=not legacy, special=True) for name in special),
            AddedToken(IMAGE_TOKEN, normalized=False, special=True),
        ]
    )
    return core
