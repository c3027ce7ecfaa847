"""`safemirage image-controls`: a suite whose questions are asked with other pictures, too."""

from pathlib import Path
from typing import Annotated

import typer

from safemirage.cli.options import OverridesArgument
from safemirage.cli.output import tables
from safemirage.text.wide_table import WideTable


def image_controls(
    config: Annotated[
        Path, typer.Argument(help="A file like configs/image_controls/vlguard.yaml.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new suite.")],
    overrides: OverridesArgument = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a suite that would change.")
    ] = False,
) -> None:
    """Write a suite that asks each question with its own picture, a blank one, noise, another sample's, and none.

    Reports on it say which answers depend on the picture.
    """
    from collections import Counter

    from safemirage.config.image_controls import ImageControlsConfig
    from safemirage.config.loading.load import to_tree
    from safemirage.evaluation.attacks.pictures import control_suite
    from safemirage.evaluation.run.preflight import require
    from safemirage.evaluation.suites.writer import write_suite
    from safemirage.settings import load_located, read_settings

    loaded = load_located(ImageControlsConfig, config, overrides or (), read_settings())
    require(loaded)
    made = control_suite(loaded)
    about = {"image_controls.json": {"config": to_tree(loaded)}}
    states = write_suite(out, loaded.name, made.samples, about=about, force=force)
    console = tables()
    counts = Counter(sample.condition for sample in made.samples)
    console.print(
        WideTable(["condition", "samples"], [[name, str(n)] for name, n in counts.items()])
    )
    for condition, count in made.without_picture.items():
        if count:
            console.print(f"{condition}: {count} samples have no picture, and stand in no control")
    for name, state in states.items():
        console.print(f"{out / name}: {state}", soft_wrap=True)
