"""Making single feature shards again, as the pipeline stage made them."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.features.build import Settings, make_featurizer, make_shard
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.runtime.errors import UserError
from pipeline.settings.resolved import ENCODERS, read_models
from pipeline.shards.building import write_manifest
from pipeline.shards.manifest import Manifest, read_rejects, write_rejects
from pipeline.shards.reader import ShardReader


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
    manifest = Manifest.read(out, f"features/{modality}")
    details = manifest.details
    reader = ShardReader(geometry, "geometry")
    if read_models(models)[ENCODERS[modality]]["sha256"] != details["encoder"]["sha256"]:
        raise UserError(f"{out} was made with another encoder than the one in {models}; run `cadmllm features` again")
    if reader.manifest.details["settings"] != details["geometry"]:
        raise UserError(f"{out} was made from other geometry than {geometry}; run `cadmllm features` again")
    kind = ImageFeatures if modality == "image" else PointFeatures
    settings: Settings = kind(**details["settings"])
    featurizer = make_featurizer(modality, models, settings, details["geometry"]["num_views"], device)
    shards = {shard.name: shard for shard in manifest.shards}
    rejects, changed = read_rejects(out), []
    for number, name in enumerate(names, 1):
        # Beside the shard, so that it takes its place by a rename; a leading dot hides it from a glob of tars.
        with_dot = out / f".rebuild-{name}" / name
        with_dot.parent.mkdir(exist_ok=True)
        finished = make_shard(featurizer, reader, with_dot, settings.dtype)
        os.replace(with_dot, out / name)
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
    write_manifest(out, manifest.kind, manifest.fields, {**details, "counts": counts}, ordered)
    return changed
