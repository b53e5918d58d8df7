"""The corpus and its features as a WebDataset folder with a dataset card."""

import os
import shutil
from pathlib import Path

from pipeline.exporting.cards import dataset_card
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.errors import UserError
from pipeline.shards.index import INDEX
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.shards.storage.store import store_of


def export_dataset(folders: dict[str, Path], out: Path, params: str) -> dict[str, int]:
    """Write the folder, whole or not at all; shards are links where the file system has them, or fetched.

    Args:
        folders: of shards, by what is in them: ``corpus``, ``geometry``, ``features/image``.
        params: the text of the params.yaml that made them.

    Returns:
        Samples in each.

    Raises:
        UserError: there are no shards, or a manifest is damaged.
    """
    manifests = {kind: Manifest.read(folder, kind) for kind, folder in folders.items() if folder.is_dir()}
    if "corpus" not in manifests:
        raise UserError(f"{folders['corpus']} has no corpus; run `dvc repro` first")
    with atomic_folder(out) as folder:
        for kind, manifest in manifests.items():
            (folder / kind).mkdir(parents=True)
            store = store_of(folders[kind])
            for shard in manifest.shards:
                if store is None:
                    _place(folders[kind] / shard.name, folder / kind / shard.name)
                else:
                    store.get(shard, folder / kind / shard.name)
            for name in (MANIFEST, INDEX):
                _place(folders[kind] / name, folder / kind / name)
        write_text(folder / "params.yaml", params)
        write_text(folder / "README.md", dataset_card(out.name, manifests))
    return {kind: sum(shard.count for shard in manifest.shards) for kind, manifest in manifests.items()}


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
