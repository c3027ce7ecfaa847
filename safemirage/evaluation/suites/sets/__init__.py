"""The one switch from a public data set's config to its cases. One module a set."""

from typing import assert_never

from safemirage.config.sets import (
    FigStepConfig,
    MMSafetyBenchConfig,
    MOSSBenchConfig,
    SetConfig,
    SPAVLConfig,
    XSTestConfig,
)
from safemirage.evaluation.suites.sets.figstep import figstep_cases
from safemirage.evaluation.suites.sets.mm_safetybench import mm_safetybench_cases
from safemirage.evaluation.suites.sets.mossbench import mossbench_cases
from safemirage.evaluation.suites.sets.spa_vl import spa_vl_cases
from safemirage.evaluation.suites.sets.xstest import xstest_cases
from safemirage.evaluation.types import Case


def set_cases(config: SetConfig) -> list[Case]:
    """The cases of a data set, in its files' order.

    Raises:
        DataError: a file cannot be used; every problem in it is named.
        ConfigError: it is Parquet, and pyarrow is not installed.
    """
    match config:
        case MMSafetyBenchConfig():
            return mm_safetybench_cases(config)
        case FigStepConfig():
            return figstep_cases(config)
        case SPAVLConfig():
            return spa_vl_cases(config)
        case XSTestConfig():
            return xstest_cases(config)
        case MOSSBenchConfig():
            return mossbench_cases(config)
        case _:
            assert_never(config)
