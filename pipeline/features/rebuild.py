"""Making single feature shards again, as the pipeline stage made them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.features.build import Settings, make_featurizer, make_shard
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.runtime.errors import UserError
from pipeline.settings.resolved import ENCODERS, read_models
from pipeline.shards.building import write_manifest
from pipeline.shards.index import shard_rows
from pipeline.shards.manifest import Manifest, Shard, read_rejects, write_rejects
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage.remote import forget
from pipeline.shards.storage.store import Store, fetched, store_of


def rebuild_features(
    modality: str,
    names: list[str],
    geometry: Path,
    models: Path,
    out: Path,
    device: torch.device,
    progress: Callable[[int, int, str], None],
) -> list[str]:
    """Make the named shards of ``out`` again with the settings in its manifest, and the index of all of them.

    Returns:
        Those that differ from what the manifest said; it then says what they are now.

    Raises:
        UserError: the encoder or the geometry is not what the folder was made from.
    """
    manifest, store = Manifest.read(out, f"features/{modality}"), store_of(out)
    details = manifest.details
    reader = ShardReader(geometry, "geometry")
    _check_inputs(out, modality, details, models, reader)
    settings: Settings = (ImageFeatures if modality == "image" else PointFeatures)(**details["settings"])
    featurizer = make_featurizer(modality, models, settings, details["geometry"]["num_views"], device)
    shards = {shard.name: shard for shard in manifest.shards}
    rejects, changed = read_rejects(out), []
    for number, name in enumerate(names, 1):
        # Beside the shard, so that it takes its place by a rename; a leading dot hides it from a glob of tars.
        with_dot = out / f".rebuild-{name}" / name
        with_dot.parent.mkdir(exist_ok=True)
        finished = make_shard(featurizer, reader, with_dot, settings.dtype)
        _place(with_dot, out / name, finished.shard, store)
        with_dot.parent.rmdir()
        if finished.shard != shards.get(name):
            changed.append(name)
            shards[name] = finished.shard
        keys = set(reader.keys(name))
        rejects = [reject for reject in rejects if reject.id not in keys] + list(finished.rejects)
        progress(number, len(names), name)
    counts = {"samples": sum(shard.count for shard in shards.values()), "rejected": len(rejects)}
    write_rejects(out, sorted(rejects))
    ordered = [shards[shard.name] for shard in reader.manifest.shards if shard.name in shards]
    described = {**details, "counts": counts}
    write_manifest(out, manifest.kind, manifest.fields, described, ordered, lambda path: _rows(path, shards, store))
    return changed


def _place(made: Path, target: Path, shard: Shard, store: Store | None) -> None:
    """Have a tar where the others are: beside their manifest, or in the store."""
    if store is None:
        os.replace(made, target)
    else:
        store.put(made, shard, again=True)
        forget(shard)
        made.unlink()


def _rows(path: Path, shards: dict[str, Shard], store: Store | None) -> np.ndarray:
    with fetched(path.parent, store, shards[path.name]) as tar:
        return shard_rows(tar)


def _check_inputs(out: Path, modality: str, details: dict[str, Any], models: Path, geometry: ShardReader) -> None:
    if read_models(models)[ENCODERS[modality]]["sha256"] != details["encoder"]["sha256"]:
        raise UserError(f"{out} was made with another encoder than the one in {models}; run `cadmllm features` again")
    if geometry.manifest.details["settings"] != details["geometry"]:
        raise UserError(f"{out} was made from other geometry than {geometry.folder}; run `cadmllm features` again")
