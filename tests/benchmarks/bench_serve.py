"""The service under many unchanged `openai` clients against the same model in this process: questions a second, a ratio.

    python -m tests.benchmarks.bench_serve [--clients 64] [--rounds 3] [--layers 48] [--tokens 32] [--engine transformers]

The model is tiny and deep: a step costs the same for one row as for many, so that what counts is how many share a pass.
The sides take turns. In-process all questions are one call with the service's batch size; the clients, each with a
connection of its own, each ask one question after another, greedy and without a seed. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import openai
import torch

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import dump_yaml
from safemirage.config.serve import CheckpointsConfig, ServeConfig
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import ImageInput, Request
from safemirage.settings import Settings
from tests.cluster.serving import TOKEN, write_tiny_export
from tests.tiny import tiny_image

MODEL = "deep-000000000000"
COLOURS = ("red", "green", "blue", "white")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        storage = Settings.at(Path(folder) / "storage").storage
        write_tiny_export(storage, MODEL, 0, num_layers=options.layers)
        generator = TransformersGenerator.load(storage.exports / MODEL, batch_size=options.clients)
        with _service(Path(folder), options.engine, options.clients) as url:
            asyncio.run(_ask(url, options.clients, options.tokens, rounds=1))  # loads the model
            _in_process(generator, options.clients, options.tokens)
            sides = [_turn(generator, url, options) for _ in range(options.repetitions)]
    generator.close()
    alone, served, waits = (list(column) for column in zip(*sides, strict=True))
    ratios = [one / other for one, other in zip(served, alone, strict=True)]
    waited = sorted(wait for some in waits for wait in some)
    figures = {
        "engine": options.engine,
        "clients": options.clients,
        "layers": options.layers,
        "tokens": options.tokens,
        "in_process_per_s": statistics.median(alone),
        "served_per_s": statistics.median(served),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "wait_p50_s": statistics.median(waited),
        "wait_p95_s": waited[int(0.95 * (len(waited) - 1))],
    }
    sys.stdout.write(
        f"{options.clients} clients {figures['served_per_s']:.1f} questions/s, in-process "
        f"{figures['in_process_per_s']:.1f}: {figures['ratio']:.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]; a client waits {figures['wait_p50_s']:.1f} s (p50)\n"
        f"{json.dumps(figures)}\n"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="questions of each client")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    return parser.parse_args()


def _turn(
    generator: TransformersGenerator, url: str, options: argparse.Namespace
) -> tuple[float, float, list[float]]:
    """Questions a second in this process and by the service, and how long each client waited for each answer."""
    alone = options.clients / _in_process(generator, options.clients, options.tokens)
    begun = time.perf_counter()
    waits = asyncio.run(_ask(url, options.clients, options.tokens, rounds=options.rounds))
    return alone, len(waits) / (time.perf_counter() - begun), waits


def _in_process(generator: TransformersGenerator, count: int, tokens: int) -> float:
    """Seconds for `count` questions in one call."""
    requests = [
        Request(question=_question(client, 0), image=ImageInput(_image(client)))
        for client in range(count)
    ]
    begun = time.perf_counter()
    asyncio.run(generator.generate(requests, DecodingConfig(max_new_tokens=tokens)))
    return time.perf_counter() - begun


async def _ask(url: str, clients: int, tokens: int, *, rounds: int) -> list[float]:
    """The wait of each question."""
    waits = await asyncio.gather(*(_client(url, one, tokens, rounds) for one in range(clients)))
    return [wait for some in waits for wait in some]


async def _client(url: str, number: int, tokens: int, rounds: int) -> Sequence[float]:
    waits = []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN) as client:
        for turn in range(rounds):
            begun = time.perf_counter()
            await client.chat.completions.create(
                model=MODEL,
                messages=_messages(number, turn),
                temperature=0,
                max_tokens=tokens,
            )
            waits.append(time.perf_counter() - begun)
    return waits


def _messages(client: int, turn: int) -> list[Any]:
    url = ImageInput(_image(client)).data_uri
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": _question(client, turn)},
    ]
    return [{"role": "user", "content": parts}]


def _question(client: int, turn: int) -> str:
    return f"what is number {client} of {turn}"


def _image(client: int) -> bytes:
    return tiny_image(COLOURS[client % len(COLOURS)])


@contextmanager
def _service(folder: Path, engine: Literal["transformers", "vllm"], batch: int) -> Iterator[str]:
    """The service by its own command, on a Ray of its own."""
    config = ServeConfig(checkpoints=CheckpointsConfig(engine=engine, batch=batch))
    file = folder / "serve.yaml"
    file.write_text(dump_yaml(config))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "SAFEMIRAGE_STORAGE": str(folder / "storage"),
        "SAFEMIRAGE_API_TOKEN": f"chat,judge,evaluate,read,unredacted {TOKEN}",
    }
    command = [sys.executable, "-m", "safemirage.cli", "serve", str(file), "port=0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().partition("/  (")[0]
        try:
            if not url.startswith("http://"):
                raise RuntimeError(f"the service did not start; exit code {process.poll()}")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=90)


if __name__ == "__main__":
    main()
