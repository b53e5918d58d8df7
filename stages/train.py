"""The ``train`` stages: one curriculum stage each, from the checkpoint of the one before."""

import json
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import memory, params, work
from pipeline.atomic import atomic_folder, write_text
from pipeline.errors import UserError
from pipeline.fingerprint import sha256_file, sha256_folder
from pipeline.params import CurriculumStage, Params
from pipeline.progress import display
from pipeline.resolved import model_sha256
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.training.checkpoint_folder import BEST, LINEAGE, LOG, check_checkpoint, read_json
from stages.launch import launch
from stages.runner import CHECKPOINTS, CORPUS, FEATURES, LOGS, METRICS, MODELS, PLOTS, stage

if TYPE_CHECKING:
    import torch

    from pipeline.model.cad_mllm import CadMllmModel
    from pipeline.training.loop import Trainer
    from pipeline.training.parallel import Parallel


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
        return {modality: FEATURES / modality for modality in self.stage.encoded}


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
        before = "models" if parent == MODELS / "llm" else f"train {parent.relative_to(CHECKPOINTS).parts[0]}"
        raise UserError(f"{parent} is missing; run `cadmllm {before}` first")
    Manifest.read(CORPUS, "corpus")
    inputs = {"corpus": sha256_file(CORPUS / MANIFEST), "llm": model_sha256(MODELS / "llm")}
    if parent != MODELS / "llm":
        check_checkpoint(parent)
        inputs["parent"] = sha256_folder(parent)
    for modality in chosen.encoded:
        Manifest.read(FEATURES / modality, f"features/{modality}")
        inputs[f"features/{modality}"] = sha256_file(FEATURES / modality / MANIFEST)
    return Place(name, list(p.curriculum).index(name) + 1, chosen, inputs)


def make_model(p: Params, place: Place, device: "torch.device") -> "CadMllmModel":
    """The model that the stage starts from, with a projector for every modality that it shows."""
    from pipeline.cad.grammar import Grammar
    from pipeline.device import DTYPES
    from pipeline.model.cad_mllm import CadMllmModel
    from pipeline.training.checkpoint import load_checkpoint

    dtype, quantization = DTYPES[p.training.dtype], p.training.quantization
    if "parent" in place.inputs:
        model = load_checkpoint(Path(place.stage.init_from), MODELS / "llm", dtype, p.model, quantization, device)
        if model.grammar.bits != p.codec.bits:
            raise UserError(
                f"{place.stage.init_from} was trained with codec.bits {model.grammar.bits}, not {p.codec.bits}"
            )
    else:
        seed = p.seed + p.training.seed
        model = CadMllmModel(MODELS / "llm", p.model, Grammar(p.codec.bits), seed, dtype, quantization, device)
    for modality, folder in place.features.items():
        manifest = Manifest.read(folder)
        shape = tuple(manifest.fields[f"{modality}.npy"]["shape"])
        known = model.feature_shapes.get(modality)
        if known is None:
            model.add_projector(modality, shape, manifest.details)
        elif known != shape:
            raise UserError(f"{folder} holds features of shape {shape}, the parent checkpoint was trained on {known}")
    return model


@stage
def train(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` in params.yaml.")],
    nproc: Annotated[
        int,
        typer.Option(
            min=1, envvar="CADMLLM_NPROC", help="Processes on this machine that share the work: one for each GPU."
        ),
    ] = 1,
) -> None:
    """Train one curriculum stage from the checkpoint of the one before; resumes where it was interrupted.

    Several machines: start `torchrun … -m stages.cli train STAGE` on each, with the project in a folder they share.
    """
    p = params.load()
    place = find_stage(p, name)
    if nproc > 1 and "WORLD_SIZE" not in os.environ:
        from pipeline.device import shared_device

        shared_device(p.training.device, nproc)  # once, before there are processes that would each find out
        launch(nproc, ["train", name])
        return
    from pipeline.training.parallel import Parallel

    with Parallel(p.training) as parallel:
        _train(p, place, parallel)


def _train(p: Params, place: Place, parallel: "Parallel") -> None:
    from pipeline.training.batches import TrainingData
    from pipeline.training.checkpoint import TensorFiles, save_checkpoint, trained_tensors
    from pipeline.training.loop import Job, Trainer
    from pipeline.training.mirror import SPEED, Mirror
    from pipeline.training.pace import flat_loss_advice
    from pipeline.training.retention import retention_advice, text_retention
    from pipeline.training.tracking import StageLog, plot_tables

    name, ancestors = place.name, parent_lineage(place)
    sections: dict[str, Any] = {
        "model": p.model,
        "training": p.training,
        "codec": p.codec,
        "seed": p.seed,
        "stage": place.stage,
    }
    with (
        display(f"train {name}", shown=parallel.is_main) as show,
        work.scratch(f"train-{name}", __name__, sections, place.inputs, parallel.is_main) as scratch,
        Mirror(p, name, scratch, ancestors, show.say, parallel) as mirror,
    ):
        with _memory_for_model(p, parallel):
            model = make_model(p, place, parallel.made_on)
        data = {
            split: TrainingData(
                CORPUS, place.features, split, model.tokenizer, p.model.max_caption_tokens, model.notation
            )
            for split in ("train", "validation")
        }
        sizes = {split: len(part.rows) for split, part in data.items()}
        among = f", {parallel.size} processes" * (parallel.size > 1)
        show.say(
            f"{sizes['train']} models to train on, {sizes['validation']} to validate on, on {parallel.device}{among}"
        )
        if difference := other_weights(p, place):
            show.say(f"note: {difference}")

        def lineage(validation: dict[str, float]) -> dict[str, Any]:
            return {
                "stage": name,
                "steps": trainer.done,
                "init_from": place.stage.init_from,
                "inputs_sha256": place.inputs,
                "params": {key: _plain(value) for key, value in sections.items()},
                "validation": validation,
                "parent": ancestors,
            }

        def write_checkpoint(folder: Path, tensors: TensorFiles, validation: dict[str, float]) -> None:
            combinations = place.stage.combinations
            save_checkpoint(folder, model, tensors, combinations, place.inputs["llm"], lineage(validation))

        def save_best(tensors: TensorFiles, validation: dict[str, float]) -> None:
            if parallel.is_main:
                with atomic_folder(scratch / BEST) as folder:
                    write_checkpoint(folder, tensors, validation)

        job = Job(
            stage=place.stage,
            training=p.training,
            train=data["train"],
            validation=data["validation"],
            seed=p.seed + p.training.seed,
            scratch=scratch,
            parallel=parallel,
            save_best=save_best,
            open_log=lambda length: StageLog(scratch / LOG, length, scratch / SPEED, parallel.is_main, mirror),
            show=show,
            say=show.say,
        )
        with _memory_for_model(p, parallel):
            trainer = Trainer(model, job)
        try:
            with _memory_for_steps(p, place, trainer):
                figures = trainer.train()
        finally:
            mirror.step = trainer.done
        tensors = trained_tensors(model)
        if parallel.is_main:
            found = lineage(figures["validation"])
            figures["retention_text"] = text_retention(found)
            for advice in (
                retention_advice(figures["retention_text"], p, name),
                flat_loss_advice(trainer.log.lines, p, name),
            ):
                if advice:
                    show.say(f"warning: {advice}")
            write_text(METRICS / "train" / f"{name}.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
            for kind, text in plot_tables(scratch / LOG).items():
                write_text(PLOTS / name / f"{kind}.csv", text)
            with atomic_folder(CHECKPOINTS / name) as folder:
                write_checkpoint(folder, tensors, figures["validation"])
                shutil.copytree(scratch / BEST, folder / BEST)
                shutil.copyfile(scratch / LOG, folder / LOG)
            LOGS.joinpath("train").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scratch / SPEED, LOGS / "train" / f"{name}.jsonl")
            mirror.finish(figures)
            work.clean(scratch)
            show.say(f"checkpoint in {CHECKPOINTS / name}, the best by validation loss in {CHECKPOINTS / name / BEST}")


def _memory_for_model(p: Params, parallel: "Parallel") -> AbstractContextManager[None]:
    gpu = parallel.device.type == "cuda"
    work = f"on {parallel.device}, with the model alone"
    return memory.explained(lambda: work, lambda: memory.for_model(p, parallel.size, gpu))


def _memory_for_steps(p: Params, place: Place, trainer: "Trainer") -> AbstractContextManager[None]:
    from pipeline.training.plan import cut
    from pipeline.training.state import state_folder

    parallel, num_steps = trainer.job.parallel, trainer.plan.num_steps

    def largest() -> tuple[int, int]:
        examples = next(trainer.plan.steps(min(trainer.done, num_steps - 1))).examples
        micro_batches = cut(examples, p.training.tokens_per_batch, parallel.size)
        return max(((len(micro), sum(e.length for e in micro)) for micro in micro_batches), key=lambda size: size[1])

    def work() -> str:
        samples, positions = largest()
        state = state_folder(trainer.job.scratch, trainer.saved)
        kept = f"{state} is kept, and gone on from under these parameters" if trainer.saved else "no state is saved yet"
        return (
            f"on {parallel.device} at step {trainer.done + 1} of {num_steps}, in batches of up to {samples} samples "
            f"and {positions} positions; {kept}"
        )

    gpu = parallel.device.type == "cuda"
    return memory.explained(work, lambda: memory.for_training(p, place.stage, largest(), parallel.size, gpu))


def other_weights(p: Params, place: Place) -> str | None:
    """That the stage goes on with other frozen weights than its parent was trained on; None where it does not."""
    if "parent" not in place.inputs:
        return None
    from pipeline.training.checkpoint_folder import CheckpointConfig

    parent = place.stage.init_from
    before = CheckpointConfig.read(Path(parent))
    now = before.model_copy(update={"dtype": p.training.dtype, "quantization": p.training.quantization})
    if now == before:
        return None
    return f"{parent} was trained on frozen weights in {before.weights}, this stage is on {now.weights}"


def parent_lineage(place: Place) -> dict[str, Any] | None:
    """The lineage of the checkpoint that a stage starts from; None where that is the plain language model."""
    if "parent" not in place.inputs:
        return None
    found: dict[str, Any] = read_json(Path(place.stage.init_from) / LINEAGE)
    return found


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
