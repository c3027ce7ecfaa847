"""The model that a world's base run starts from, as an export on disk."""

from dataclasses import replace
from pathlib import Path

from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import to_tree
from safemirage.miniature.model import build_model, build_processor
from safemirage.miniature.world import World
from safemirage.models.export import ExportRecord, write_export
from safemirage.models.families import LLAVA
from safemirage.models.manifest import MANIFEST_NAME
from safemirage.storage import Storage
from safemirage.versions import current_commit

FORMAT = 1
"""The version of the initial model, raised when the same config gives another one than before."""


def build_initial_model(world: World, storage: Storage) -> Path:
    """The export's folder: trained at the first call (half a minute), found at later ones.

    It depends on the world's kinds, colours, words, sizes and seed, and on none of its sets.
    """
    config = replace(world.config, sets=type(world.config.sets)())
    identity = digest_of({"format": FORMAT, "config": identity_tree(config)})
    folder = storage.worlds / f"initial-{identity[:16]}"
    if (folder / MANIFEST_NAME).is_file():
        return folder
    processor = build_processor(config)
    write_export(
        folder,
        model=build_model(config, processor),
        processor=processor,
        state_dict=None,
        family=LLAVA,
        record=ExportRecord(
            run_id=folder.name,
            identity=identity,
            method="tower",
            base=None,
            config=to_tree(config),
            metrics={},
            git_commit=current_commit(),
        ),
    )
    return folder
