"""The ``train`` stages: one curriculum stage each, from the checkpoint of the one before."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import params, work
from pipeline.atomic import atomic_folder, write_text
from pipeline.errors import UserError
from pipeline.fingerprint import sha256_file, sha256_folder
from pipeline.params import CurriculumStage, Params
from pipeline.progress import display
from pipeline.shards.manifest import MANIFEST, Manifest
from stages.runner import CHECKPOINTS, CORPUS, FEATURES, METRICS, MODELS, PLOTS, stage

if TYPE_CHECKING:
    import torch

    from pipeline.model.cad_mllm import CadMllm


@dataclass(frozen=True, slots=True)
class Place:
    """A curriculum stage, its number, its inputs by sha256."""

    name: str
    number: int
    stage: CurriculumStage
    inputs: dict[str, str]

    @property
    def features(self) -> dict[str, Path]:
        """The feature folders that the stage reads."""
        return {m: FEATURES / m for m in self.stage.modalities if m != "text"}


def find_stage(p: Params, name: str) -> Place:
    """A stage of the curriculum with the identity of all that it reads.

    Raises:
        UserError: there is no such stage, or an input is missing.
    """
    if name not in p.curriculum:
        raise UserError(f"no curriculum stage {name!r} in params.yaml; there are {', '.join(p.curriculum)}")
    chosen = p.curriculum[name]
    parent = Path(chosen.init_from)
    if not parent.is_dir():
        before = "models" if parent == MODELS / "llm" else f"train {parent.name}"
        raise UserError(f"{parent} is missing; run `cadmllm {before}` first")
    Manifest.read(CORPUS, "corpus")
    inputs = {"corpus": sha256_file(CORPUS / MANIFEST), "llm": sha256_folder(MODELS / "llm")}
    if parent != MODELS / "llm":
        inputs["parent"] = sha256_folder(parent)
    for modality in chosen.modalities:
        if modality != "text":
            Manifest.read(FEATURES / modality, f"features/{modality}")
            inputs[f"features/{modality}"] = sha256_file(FEATURES / modality / MANIFEST)
    return Place(name, list(p.curriculum).index(name) + 1, chosen, inputs)


def make_model(p: Params, place: Place, device: "torch.device") -> "CadMllm":
    """The model that the stage starts from, with a projector for every modality that it shows."""
    from pipeline.cad.grammar import Grammar
    from pipeline.device import DTYPES
    from pipeline.model.cad_mllm import CadMllm
    from pipeline.training.checkpoint import load_checkpoint

    dtype = DTYPES[p.training.dtype]
    if "parent" in place.inputs:
        model = load_checkpoint(Path(place.stage.init_from), MODELS / "llm", dtype, p.model)
        if model.grammar.bits != p.codec.bits:
            raise UserError(
                f"{place.stage.init_from} was trained with codec.bits {model.grammar.bits}, not {p.codec.bits}"
            )
    else:
        model = CadMllm(MODELS / "llm", p.model, Grammar(p.codec.bits), p.seed, dtype)
    for modality, folder in place.features.items():
        manifest = Manifest.read(folder)
        shape = tuple(manifest.fields[f"{modality}.npy"]["shape"])
        known = model.feature_shapes.get(modality)
        if known is None:
            model.add_projector(modality, shape, manifest.details)
        elif known != shape:
            raise UserError(f"{folder} holds features of shape {shape}, the parent checkpoint was trained on {known}")
    return model.to(device)


def write_plots(name: str, log: Path) -> None:
    """The stage's curves for ``dvc plots``."""
    from pipeline.training.tracking import plot_tables

    for kind, text in plot_tables(log).items():
        write_text(PLOTS / name / f"{kind}.csv", text)


@stage
def train(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` in params.yaml.")],
) -> None:
    """Train one curriculum stage from the checkpoint of the one before; resumes where it was interrupted."""
    from pipeline.device import choose_device
    from pipeline.training.batches import TrainingData
    from pipeline.training.checkpoint import LOG, save_checkpoint
    from pipeline.training.loop import train_stage
    from pipeline.training.tracking import mirror

    p = params.load()
    place = find_stage(p, name)
    sections: dict[str, Any] = {
        "model": p.model,
        "training": p.training,
        "codec": p.codec,
        "seed": p.seed,
        "stage": place.stage,
    }
    with (
        display(f"train {name}") as show,
        work.scratch(f"train-{name}", __name__, sections, place.inputs) as scratch,
    ):
        model = make_model(p, place, choose_device(p.training.device))
        data = {
            split: TrainingData(
                CORPUS, place.features, split, model.tokenizer, p.model.max_caption_tokens, model.notation
            )
            for split in ("train", "validation")
        }
        sizes = {split: len(part.rows) for split, part in data.items()}
        show.say(f"{sizes['train']} models to train on, {sizes['validation']} to validate on, on {model.device}")
        figures = train_stage(
            model,
            place.stage,
            p.training,
            data["train"],
            data["validation"],
            p.seed,
            scratch,
            lambda s: show(
                s.step, s.num_steps, f"loss {s.loss:.3f}, {s.tokens_per_s:.0f} tokens/s, {s.seconds_left:.0f} s left"
            ),
            show.say,
        )
        log = scratch / LOG
        run_id = scratch.name
        mirror(p.tracking, log, name, run_id, name, place.number, place.stage, p.model_dump(mode="json"))
        lineage = {
            "stage": name,
            "init_from": place.stage.init_from,
            "inputs_sha256": place.inputs,
            "params": {key: _plain(value) for key, value in sections.items()},
        }
        write_text(METRICS / "train" / f"{name}.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
        write_plots(name, log)
        with atomic_folder(CHECKPOINTS / name) as folder:
            save_checkpoint(folder, model, place.stage.combinations, place.inputs["llm"], lineage)
            write_text(folder / LOG, log.read_text(encoding="utf-8"))
        work.clean(scratch)
        show.say(f"checkpoint in {CHECKPOINTS / name}")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
