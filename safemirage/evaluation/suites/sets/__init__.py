"""The one switch from a public data set's config to its samples. One module a set."""

from typing import assert_never

from safemirage.config.sets import (
    FigStepConfig,
    MMSafetyBenchConfig,
    MOSSBenchConfig,
    SetConfig,
    SPAVLConfig,
    XSTestConfig,
)
from safemirage.evaluation.suites.sets.figstep import figstep_samples
from safemirage.evaluation.suites.sets.mm_safetybench import mm_safetybench_samples
from safemirage.evaluation.suites.sets.mossbench import mossbench_samples
from safemirage.evaluation.suites.sets.spa_vl import spa_vl_samples
from safemirage.evaluation.suites.sets.xstest import xstest_samples
from safemirage.evaluation.types import Sample


def set_samples(config: SetConfig) -> list[Sample]:
    """The samples of a data set, in its files' order.

    Raises:
        DataError: a file cannot be used; every problem in it is named.
        ConfigError: it is Parquet, and pyarrow is not installed.
    """
    match config:
        case MMSafetyBenchConfig():
            return mm_safetybench_samples(config)
        case FigStepConfig():
            return figstep_samples(config)
        case SPAVLConfig():
            return spa_vl_samples(config)
        case XSTestConfig():
            return xstest_samples(config)
        case MOSSBenchConfig():
            return mossbench_samples(config)
        case _:
            assert_never(config)
