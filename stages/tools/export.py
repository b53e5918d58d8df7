"""``cadmllm export``: what is trained, and what it was trained on, as folders for others."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.model.checkpoint_folder import check_checkpoint, models_of
from pipeline.runtime.commands import command
from pipeline.runtime.errors import UserError
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY, METRICS
from stages.tools import checkpoints

export = typer.Typer(no_args_is_help=True, help="Write a model, or the dataset, as a folder that others load.")

Push = Annotated[
    str | None, typer.Option(metavar="USER/NAME", help="Then upload it to that repository of the Hugging Face hub.")
]


@export.command("model")
@command
def export_model_folder(
    out: Annotated[Path, typer.Argument(help="Folder for it.")],
    checkpoint: Annotated[Path | None, typer.Option(help=checkpoints.HELP)] = None,
    merged: Annotated[bool, typer.Option("--merged", help="LoRA within the language model's weights.")] = False,
    push: Push = None,
) -> None:
    """Write a checkpoint with the models that it needs, and a card: CadMllm.from_pretrained loads it anywhere."""
    folder, _ = checkpoints.chosen(checkpoint)
    check_checkpoint(folder)
    _check_out(out)
    from pipeline.exporting.model import export_model

    config = export_model(folder, models_of(folder), out, merged, _figures(folder.name), CORPUS)
    typer.echo(f"{out}: {_mib(out)} MiB, takes {', '.join(config.combinations)}")
    _push(out, push, "model")


@export.command("dataset")
@command
def export_dataset_folder(
    out: Annotated[Path, typer.Argument(help="Folder for it.")],
    geometry: Annotated[bool, typer.Option("--geometry", help="Clouds and views, too.")] = False,
    push: Push = None,
) -> None:
    """Write corpus and features as WebDataset shards with a card. They are links where the file system has them."""
    _check_out(out)
    from pipeline.exporting.dataset import export_dataset

    folders = {"corpus": CORPUS, **({"geometry": GEOMETRY} if geometry else {})}
    folders |= {f"features/{modality}": FEATURES / modality for modality in ("point_cloud", "image")}
    params = Path("params.yaml").read_text(encoding="utf-8")
    for kind, samples in export_dataset(folders, out, params).items():
        typer.echo(f"{out / kind}: {samples:,} samples")
    _push(out, push, "dataset")


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; name another folder, or delete it")


def _figures(stage: str) -> dict[str, Any]:
    path = METRICS / "stages" / f"{stage}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _mib(folder: Path) -> int:
    return -(-sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // (1 << 20))


def _push(folder: Path, repository: str | None, kind: str) -> None:
    """Upload a folder; what goes wrong on the way costs nothing that is here."""
    if repository is None:
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type=kind, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder)
    except LocalTokenNotFoundError as error:
        raise UserError(f"{folder} is written; to upload it, log in with `hf auth login` first") from error
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"{folder} is written; {repository} could not be uploaded: {error}") from error
    typer.echo(f"uploaded to {url}")
