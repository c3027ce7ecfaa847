"""The one switch from a generator's config to the generator, open while the `async with` lasts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_never

from safemirage.config.generators import (
    GeneratorConfig,
    OpenAIConfig,
    TransformersConfig,
    VLLMConfig,
)
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.openai import OpenAIGenerator


@asynccontextmanager
async def open_generator(config: GeneratorConfig) -> AsyncIterator[Generator]:
    """Raises GeneratorUnavailable when a URL cannot be reached, ConfigError when a folder holds no model."""
    match config:
        case OpenAIConfig():
            async with OpenAIGenerator(config) as remote:
                yield remote
        case TransformersConfig():
            from safemirage.evaluation.generators.transformers import TransformersGenerator

            local = TransformersGenerator.load(
                config.path,
                dtype=config.dtype,
                device=config.device,
                presets=config.presets,
                changes=config.weights,
                batch_size=config.rows,
            )
            try:
                yield local
            finally:
                local.close()
        case VLLMConfig():
            from safemirage.evaluation.generators.vllm import VLLMGenerator

            engine = VLLMGenerator.load(
                config.path,
                dtype=config.dtype,
                gpu_memory=config.gpu_memory,
                presets=config.presets,
            )
            try:
                yield engine
            finally:
                engine.close()
        case _:
            assert_never(config)
