"""The ``evaluate`` stages: what a curriculum stage's checkpoint can do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import memory, params, work
from pipeline.atomic import publish, write_text
from pipeline.data.folders import Folders
from pipeline.errors import UserError
from pipeline.fingerprint import sha256_file, sha256_folder
from pipeline.params import Evaluation, Params
from pipeline.progress import display
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.training.checkpoint_folder import LINEAGE, check_checkpoint, read_json
from stages.runner import CHECKPOINTS, CORPUS, EVALUATIONS, GEOMETRY, METRICS, MODELS, stage
from stages.train import Place, find_stage

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluator
    from pipeline.training.batches import TrainingData


@stage
def evaluate(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` whose checkpoint is measured.")],
) -> None:
    """Measure a checkpoint: validation loss, valid solids and distances for every combination of modalities."""
    p = params.load()
    place = find_trained(p, name)
    from pipeline.evaluation.evaluate import evaluate as measure
    from pipeline.evaluation.summary import stage_summary
    from pipeline.training.mirror import mirror_evaluation

    sections = {"evaluation": p.evaluation}
    with display(f"evaluate {name}") as show, measuring("evaluation", p, place, __name__, sections) as scratch:
        evaluator, validation = make_evaluator(p, place, scratch, p.evaluation, own_folders(place))
        show.say(f"{len(evaluator.rows)} test models, on {evaluator.model.device}")
        with evaluator:
            figures = measure(evaluator, validation, show)
        for combination, found in figures["combinations"].items():
            distance, iou = found["metrics"]["chamfer_l1_mean"]["median"], found["metrics"]["volumetric_iou"]["mean"]
            loss, valid = found["validation_loss"], found["valid_rate"]
            shown = "-" if iou is None else f"{iou:.2f}"
            show.say(
                f"{combination}: loss {loss:.3f}, valid {valid:.0%}, chamfer median {distance:.3f}, IoU mean {shown}"
            )
        syntax = figures["syntax"]
        show.say(f"{syntax['combination']}, without the grammar: well-formed {syntax['well_formed_rate']:.0%}")
        for folder, found in (("evaluate", figures), ("stages", stage_summary(figures))):
            write_text(METRICS / folder / f"{name}.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
        publish(scratch, EVALUATIONS / name)
        mirror_evaluation(p, name, read_json(CHECKPOINTS / name / LINEAGE), figures, show.say)


def find_trained(p: Params, name: str) -> Place:
    """A stage of the curriculum whose checkpoint is there.

    Raises:
        UserError: it is not, or another input is missing.
    """
    place = find_stage(p, name)
    Manifest.read(GEOMETRY, "geometry")
    if not (CHECKPOINTS / name).is_dir():
        raise UserError(f"{CHECKPOINTS / name} is missing; run `cadmllm train {name}` first")
    check_checkpoint(CHECKPOINTS / name)
    return place


@contextmanager
def measuring(kind: str, p: Params, place: Place, module: str, sections: dict[str, Any]) -> Iterator[Path]:
    """The folder of this piece of work: it depends on the sections, the checkpoint and the code that is imported."""
    checkpoint = CHECKPOINTS / place.name
    common = {"training": p.training, "kernel": p.kernel, "seed": p.seed, "stage": place.stage}
    inputs = {**place.inputs, "checkpoint": sha256_folder(checkpoint), "geometry": sha256_file(GEOMETRY / MANIFEST)}
    with (
        work.scratch(f"{kind}-{place.name}", module, {**sections, **common}, inputs) as folder,
        memory.explained(lambda: f"in {kind}", lambda: memory.for_evaluation(sections["evaluation"], p.training)),
    ):
        yield folder


def own_folders(place: Place) -> Folders:
    """Where the models are kept that the pipeline was run on."""
    return Folders(CORPUS, GEOMETRY, place.features)


def make_evaluator(
    p: Params, place: Place, scratch: Path, limits: Evaluation, folders: Folders
) -> "tuple[Evaluator, TrainingData]":
    """What measures the checkpoint of a curriculum stage on test models, and the validation data."""
    from pipeline.device import choose_device
    from pipeline.evaluation.evaluate import Evaluator, Setting
    from pipeline.shards.reader import ShardReader
    from pipeline.training.batches import TrainingData, check_codec
    from pipeline.training.checkpoint import load_checkpoint

    model = load_checkpoint(CHECKPOINTS / place.name, MODELS / "llm", device=choose_device(p.training.device))
    data = {
        split: TrainingData(
            folders.corpus, folders.features, split, model.tokenizer, model.params.max_caption_tokens, model.notation
        )
        for split in ("validation", "test")
    }
    check_codec(data["test"], model.grammar)
    setting = Setting(place.stage, p.training, limits, p.kernel, p.seed)
    reader = ShardReader(folders.geometry, "geometry")
    return Evaluator(model, data["test"], reader, setting, scratch, params.num_workers()), data["validation"]
