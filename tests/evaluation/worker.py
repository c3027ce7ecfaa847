"""A process that runs one evaluation with a slow scripted model, for the kill tests:

python worker.py STORE_URL LOG SECONDS_A_CALL EVALUATION_ID

Its answers hold its process id, so that a test sees whose were kept.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.rules import KeywordsJudge
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.types import Request
from safemirage.store import open_store
from tests.evaluation.samples import make_sample


def main() -> None:
    url, log, seconds, evaluation_id = sys.argv[1:]

    def script(request: Request) -> str:
        with Path(log).open("a") as stream:
            stream.write(f"{request.question}\n")
        time.sleep(float(seconds))
        return f"answer of {os.getpid()}"

    samples = [make_sample(str(index)) for index in range(12)]
    spec = EvaluationSpec(
        id=evaluation_id, model="m", decoding=DecodingConfig(), batch_size=4, ttl_s=1.0
    )
    with open_store(url) as store:
        generator = ScriptedGenerator(script, version="1")
        ended = asyncio.run(evaluate(spec, samples, generator, [KeywordsJudge()], store=store))
        sys.stdout.write(ended.state)


if __name__ == "__main__":
    main()
