"""The pipeline stage ``features``: a frozen encoder over every model, once; and the check of what it wrote."""

from enum import StrEnum
from typing import Annotated

import typer

from pipeline.execution.workers import Workers
from pipeline.features.settings import Features
from pipeline.runtime.commands import command, long_running
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import libraries, other_versions
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import work_folder
from pipeline.settings.computing import Device
from pipeline.settings.params import Sections, num_workers
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY, MODELS
from pipeline.settings.resolved import ENCODERS, read_models
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage.settings import Storage
from pipeline.shards.storage.store import store_at

features = typer.Typer(
    invoke_without_command=True, help="Run a frozen encoder once over all models; `verify` checks what it wrote."
)


class FeaturesSections(Sections):
    """What ``features`` reads of params.yaml."""

    features: Features
    training: Device
    storage: Storage = Storage()


class Modality(StrEnum):
    """What has an encoder."""

    image = "image"
    point_cloud = "point_cloud"


def encode(
    context: typer.Context,
    modality: Annotated[Modality | None, typer.Option(help="Which encoder runs.")] = None,
) -> None:
    """Run a frozen encoder once over data/geometry/ and write its embeddings to data/features/<modality>/."""
    if context.invoked_subcommand is not None:
        return
    if modality is None:
        raise typer.BadParameter("image or point_cloud is needed", param_hint="--modality")
    run(modality)


@long_running
def run(modality: Modality) -> None:
    """Encode one modality."""
    p = FeaturesSections.load()
    Manifest.read(GEOMETRY, "geometry")
    settings = getattr(p.features, modality.value)
    inputs = {"encoder": read_models(MODELS)[ENCODERS[modality.value]]["sha256"]}
    from pipeline.features.build import build_features, device_of

    workers = Workers.load()
    device = device_of(workers, p.training.device)
    sections = {"settings": settings, "device": device.type}
    with (
        display(f"features {modality.value}") as show,
        work_folder(f"features-{modality.value}", __name__, sections, inputs) as scratch,
    ):
        out = FEATURES / modality.value
        show.say(f"encoding on {device}")
        store = store_at(p.storage.shards)
        counts = build_features(modality.value, GEOMETRY, MODELS, settings, device, scratch, out, workers, show, store)
        show.say(f"{counts['samples']} models encoded, {counts['rejected']} rejected")


@features.command("verify")
@command
def verify_features(
    modality: Annotated[Modality | None, typer.Option(help="Default: all that are there.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make faulty shards again, and only those.")] = False,
) -> None:
    """Check every feature shard: sha256, counts, keys and their order, shapes, dtypes, finiteness; and the index.

    Exits with 1 where something is wrong and was not rebuilt.
    """
    from pipeline.features.verify import verify_folder
    from pipeline.shards.index import INDEX

    chosen = [modality] if modality else [m for m in Modality if (FEATURES / m.value).is_dir()]
    if not chosen:
        raise UserError("there are no features here yet; run `cadmllm features --modality image`")
    left = 0
    for each in chosen:
        folder = FEATURES / each.value
        faults = verify_folder(folder, num_workers(), CORPUS, (GEOMETRY,))
        count = len(Manifest.read(folder).shards)
        typer.echo(f"{folder}: {f'{len(faults)} faults' if faults else f'{count} shards are fine'}")
        for fault in faults:
            typer.echo(f"  {folder / fault.shard}: {fault.text}")
        if faults and rebuild:
            _rebuild(each, sorted({fault.shard for fault in faults} - {INDEX}))
            faults = verify_folder(folder, num_workers(), CORPUS, (GEOMETRY,))
            for fault in faults:
                typer.echo(f"  still: {folder / fault.shard}: {fault.text}")
        left += len(faults)
    if left:
        if not rebuild:
            typer.echo("`cadmllm features verify --rebuild` makes these shards again")
        raise typer.Exit(1)


def _rebuild(modality: Modality, names: list[str]) -> None:
    from pipeline.features.rebuild import rebuild_features
    from pipeline.runtime.device import choose_device

    folder = FEATURES / modality.value
    own = {shard.name for shard in Manifest.read(GEOMETRY, "geometry").shards}
    foreign = [name for name in names if name not in own]
    if foreign:
        raise UserError(f"{folder / foreign[0]} has no geometry to be made from; remove it")
    device = choose_device(FeaturesSections.load().training.device)
    made_with = Manifest.read(folder).details.get("libraries", {})
    with display(f"rebuild {modality.value}") as show:
        changed = rebuild_features(modality.value, names, GEOMETRY, MODELS, folder, device, show)
        same = len(names) - len(changed)
        show.say(f"{len(names)} shards made again, {same} with the bytes that the manifest knows")
        if changed:
            if different := other_versions(made_with, libraries("pipeline.features.build")):
                show.say(f"note: {folder} was made with {different}")
            show.say(f"the manifest has been changed for {', '.join(changed)}; `dvc commit` if these are what you want")
