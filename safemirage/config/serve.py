"""The service: where it listens, who may call it, what it refuses, what it runs. Files: configs/serve/*.yaml."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.generators import OpenAIConfig
from safemirage.config.judges import BUILT_IN_JUDGES, AskingJudgeConfig, ExportConfig, judge_title
from safemirage.config.types import Count, Positive, Strict

_ORIGIN = r"^https?://[^/?#@\s]+$"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig(Strict):
    """What one caller may ask for. Whatever is over is refused before it is worked on."""

    body_bytes: Count = 32 * 1024 * 1024
    """Bytes of a request's body, images included (413)."""
    bodies_bytes: Count = 256 * 1024 * 1024
    """Bytes of the bodies of all requests that are worked on; a request that would bring more is turned away (429)."""
    body_depth: Count = 32
    """How deep lists and mappings of a body are nested (413)."""
    body_values: Count = 250_000
    """Values in a body, counted before it is parsed (413); `samples` inline samples must fit."""
    body_keys: Count = 64
    """Keys of one mapping in a body (413)."""
    body_timeout_s: Positive = 60.0
    """How long a body may take to come in (408)."""
    header_timeout_s: Positive = 10.0
    """How long the head of a request may take to come in; then the connection is closed."""
    image_bytes: Count = 8 * 1024 * 1024
    """Bytes of one encoded image."""
    image_pixels: Count = 16_000_000
    """Width x height of one image, read from its header before anything is decoded."""
    image_side: Count = 8192
    """Pixels of an image's longer side: some models pad an image to a square of it."""
    image_ratio: Annotated[float, Field(ge=1)] = 50.0
    """Longer side by shorter: other models scale the shorter side up to their own size, and the longer with it."""
    image_origins: tuple[Annotated[str, Field(pattern=_ORIGIN)], ...] = ()
    """The origins that images may be fetched from by URL, e.g. https://images.example.org; empty: data URIs only."""
    image_timeout_s: Positive = 10.0
    """For each wait of such a fetch: to connect, and for the next piece."""
    prompt_characters: Count = 20_000
    """Characters of one question, and of one answer to judge."""
    items: Count = 256
    """Answers in one batch to judge."""
    samples: Count = 10_000
    """Samples of one evaluation that are sent inline."""
    new_tokens: Count = 2048
    """The largest `max_tokens`."""
    default_new_tokens: Count = 256
    """What stands for `max_tokens` where a request has none."""
    waiting: Count = 256
    """Requests that are worked on or wait; one more is turned away (429)."""
    waiting_tokens: Count = 524_288
    """Tokens of work that are done or wait: about those of the prompts, and those that the answers may have (429)."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The part of both that one bearer token may fill; 1 where one client alone calls."""
    retry_after_s: Count = 2
    """The least that a caller who was turned away is told to wait; more, where the work ahead takes longer."""
    request_timeout_s: Positive = 120.0
    """A request that takes longer is given up (504)."""
    choices: Count = 16
    """The largest `n`, and prompts of one completion."""
    turns: Count = 64
    """Messages of one conversation."""
    stored_bytes: Count = 8 * 1024 * 1024 * 1024
    """Bytes of all files that callers uploaded, and of the results of their batches (413)."""
    page: Count = 500
    """The largest page of a listing."""

    def __post_init__(self) -> None:
        if self.body_bytes > self.bodies_bytes:
            raise ValueError(
                f"limits.body_bytes: {self.body_bytes!r} is over limits.bodies_bytes={self.bodies_bytes!r}"
            )
        if self.default_new_tokens > self.new_tokens:
            raise ValueError(
                f"limits.default_new_tokens: {self.default_new_tokens!r} is over limits.new_tokens={self.new_tokens!r}"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointsConfig(Strict):
    """The replicas that hold models. Fractions of a CPU let them stand beside a training on a small machine."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """The engine that answers."""
    replicas: Count = 1
    """Replicas; each holds models of its own."""
    cpus: Annotated[float, Field(ge=0)] = 0.05
    """Logical CPUs that Ray reserves for one replica."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray reserves for one replica; a fraction shares a GPU."""
    threads: Count = 1
    """Threads that one replica computes with."""
    models: Count = 4
    """Models that one replica keeps loaded; the one used longest ago goes first."""
    batch: Count = 32
    """Answers in the making at a time; requests enter and leave at every step."""
    images: Count = 4
    """Images of one conversation. vLLM keeps memory for as many."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""


ServedJudgeConfig = Annotated[AskingJudgeConfig, Field(discriminator="name")]
"""A judge that asks a model, as in an evaluation's config: the model is an export of the service (`name: export`) or
behind a URL (`name: openai`)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationsConfig(Strict):
    """The one replica that runs evaluations."""

    cpus: Annotated[float, Field(ge=0)] = 0.01
    """Logical CPUs that Ray reserves for it."""
    concurrent: Count = 2
    """Evaluations that run at a time; more wait in the store."""
    batch: Count = 32
    """Samples sent to a model in one call; a batch is the unit that is stored."""
    poll_s: Positive = 0.25
    """How often the store is looked at for evaluations that wait, or whose worker is gone."""
    takeover_s: Positive = 10.0
    """How long after the sudden end of a replica its evaluations are taken over."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Strict):
    host: str = "127.0.0.1"
    """Address that the service listens on; 127.0.0.1 is reached from this machine only."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port of the interface; 0 takes a free one."""
    auth: Literal["token", "none"] = "token"
    """`token`: every call under /v1 needs a bearer token, made by `safemirage token` or set as SAFEMIRAGE_API_TOKEN.
    `none` is for a loopback address only."""
    restricted: tuple[str, ...] = ("*",)
    """Exports whose answers only the scope `unredacted` may see, by name or pattern (`base-*`): all of them, unless you
    know better. What they say in evaluations is judged, counted and shown to others without their words."""
    tls_elsewhere: bool = False
    """A proxy in front of the service speaks TLS with those who call from other machines."""
    insecure: bool = False
    """Start although something that the service stands on is open to others; see /readyz."""
    replicas: Count = 1
    """Replicas that answer HTTP. Each has a queue of its own."""
    cpus: Annotated[float, Field(ge=0)] = 0.01
    """Logical CPUs of a replica that answers HTTP."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    evaluations: EvaluationsConfig = field(default_factory=EvaluationsConfig)
    moderation: str = "refusal_rules"
    """The judge of /v1/moderations where a request names none, by its title. A guard model serves best."""
    judges: tuple[ServedJudgeConfig, ...] = ()
    """Judges that ask a model, beside the built-in ones; callers name each by its title."""

    def __post_init__(self) -> None:
        if self.auth == "none" and not is_loopback(self.host):
            raise ValueError(
                f"auth: 'none' with host {self.host!r}, which others can reach; "
                "set auth=token, or host=127.0.0.1"
            )
        _check_judges(self.judges)


def _check_judges(judges: Sequence[AskingJudgeConfig]) -> None:
    names = [*BUILT_IN_JUDGES, *map(judge_title, judges)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"judges: the titles {twice} stand twice or are built in; every judge needs its own"
        )
    for place, judge in enumerate(judges):
        if not _NAME.fullmatch(judge_title(judge)):
            raise ValueError(
                f"judges.{place}.title: {judge_title(judge)!r} must be letters, digits, '.', '_' and '-'"
            )
        if not isinstance(judge.model, ExportConfig | OpenAIConfig):
            raise ValueError(
                f"judges.{place}.model: name {judge.model.name!r} would load a model beside the service's own; give "
                "name: export and the id of an export, or name: openai and a URL"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
