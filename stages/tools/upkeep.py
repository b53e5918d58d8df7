"""Small commands around the pipeline: presets, verification, checkpoints."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.runtime.commands import command
from pipeline.runtime.errors import UserError
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY

preset = typer.Typer(no_args_is_help=True, help="Choose between ready-made params.yaml files.")
checkpoint = typer.Typer(no_args_is_help=True, help="Look into checkpoints; begin one.")
DEFAULT = "A quarter of an hour on two CPU cores, nothing to download: the default."


@preset.command("list")
@command
def list_presets() -> None:
    """Name the presets with what they are for."""
    from pipeline.planning import presets
    from pipeline.planning.params import Params
    from pipeline.settings import params

    current = Params.load().preset if params.PARAMS_FILE.is_file() else None
    for name in presets.names():
        first = (presets.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        typer.echo(f"{'*' if name == current else ' '} {name:13} {DEFAULT if name == presets.BASE else first}")


@preset.command("show")
@command
def show_preset(name: Annotated[str, typer.Argument(help="A preset.")]) -> None:
    """Say what a preset changes in the default one."""
    from pipeline.planning import presets

    base, changed = presets.flatten(presets.compose(presets.BASE)), presets.flatten(presets.compose(name))
    for key in sorted(base.keys() | changed.keys()):
        if base.get(key) != changed.get(key):
            typer.echo(f"{key}: {_shown(base.get(key))} -> {_shown(changed.get(key))}")


@preset.command("use")
@command
def use_preset(
    name: Annotated[str, typer.Argument(help="A preset.")],
    force: Annotated[bool, typer.Option("--force", help="Give up what you changed in params.yaml.")] = False,
) -> None:
    """Write params.yaml from a preset."""
    from pipeline.planning import presets
    from pipeline.settings import params

    if not force and (changed := presets.own_changes(params.PARAMS_FILE)):
        raise UserError(f"params.yaml has changes of yours ({', '.join(changed)}); --force gives them up")
    presets.write(presets.compose(name), params.PARAMS_FILE)
    typer.echo(f"{params.PARAMS_FILE} is now the preset {name}; `cadmllm preset show {name}` says what that changes")


def _shown(value: object) -> str:
    return json.dumps(value, default=str) if value is not None else "(absent)"


@command
def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of shards; all that exist, if none is named.")
    ] = None,
) -> None:
    """Check shards against their manifests: sha256, counts, names, shapes, dtypes, finiteness, index."""
    from pipeline.features.verify import verify_folder
    from pipeline.settings import params

    known = [CORPUS, GEOMETRY, FEATURES / "point_cloud", FEATURES / "image"]
    chosen = folders or [folder for folder in known if folder.is_dir()]
    if not chosen:
        raise UserError("there are no shards here yet; run `dvc repro`")
    faults = []
    for folder in chosen:
        found = verify_folder(folder, params.num_workers())
        typer.echo(f"{folder}: {'ok' if not found else f'{len(found)} faults'}")
        for fault in found:
            typer.echo(f"  {folder / fault.shard}: {fault.text}")
        faults += found
    if faults:
        raise typer.Exit(1)


@checkpoint.command("from-models")
@command
def checkpoint_from_models(
    out: Annotated[Path, typer.Argument(help="Folder for it, for example checkpoints/begin.")],
) -> None:
    """Write the networks in models/ as a checkpoint: they generate as they were pretrained, nothing is trained."""
    from pipeline.generation.untrained import write_untrained
    from pipeline.planning.params import Params
    from pipeline.settings.places import MODELS

    p = Params.load()
    known = write_untrained(p.model, p.codec.bits, p.features, p.geometry, p.seed, MODELS, out)
    typer.echo(f"{out}: takes {', '.join(known)}")


@checkpoint.command("show")
@command
def show_checkpoint(folder: Annotated[Path, typer.Argument(help="For example checkpoints/stage3_all.")]) -> None:
    """Print what a checkpoint is and what it was made from."""
    from pipeline.curriculum.retention import lineage_chain, text_retention
    from pipeline.model.checkpoint_folder import LINEAGE, CheckpointConfig, read_json

    config, lineage = CheckpointConfig.read(folder), read_json(folder / LINEAGE)
    for number, each in enumerate(lineage_chain(lineage)):
        typer.echo(f"{'stage' if number == 0 else '':13} {each['stage']}, from {each['init_from']}")
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in lineage["validation"].items())
    retention = text_retention(lineage)
    kept = "" if retention is None else f" (text-only {retention:.2f} times that of the first stage)"
    typer.echo(f"validation    {losses or 'none'}{kept}")
    typer.echo(f"trained for   {', '.join(config.combinations)}")
    typer.echo(f"weights       {config.weights}")
    typer.echo(f"vocabulary    {config.bits} bits")
    for name, features in config.features.items():
        shape = " x ".join(map(str, features.shape))
        typer.echo(f"{name:13} {shape} from {features.details['encoder']['source']}")
    for name, digest in lineage["inputs_sha256"].items():
        typer.echo(f"sha256        {digest[:16]}  {name}")
    for library, version in lineage.get("libraries", {}).items():
        typer.echo(f"trained with  {library} {version}")
    lora = config.model.lora
    typer.echo(f"lora          r {lora.r}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)}")
