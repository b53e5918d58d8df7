"""The ``evaluate`` stages: what a curriculum stage's checkpoint can do."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline import params, work
from pipeline.atomic import publish, write_text
from pipeline.fingerprint import sha256_file, sha256_folder
from pipeline.progress import display
from pipeline.shards.manifest import MANIFEST
from stages.runner import CHECKPOINTS, CORPUS, EVALUATIONS, GEOMETRY, METRICS, MODELS, stage
from stages.train import find_stage


@stage
def evaluate(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` whose checkpoint is measured.")],
) -> None:
    """Measure a checkpoint: validation loss, valid solids and chamfer distance for every combination of modalities."""
    from pipeline.device import DTYPES, choose_device
    from pipeline.evaluation.evaluate import Setting
    from pipeline.evaluation.evaluate import evaluate as measure
    from pipeline.shards.reader import ShardReader
    from pipeline.training.batches import TrainingData, check_codec
    from pipeline.training.checkpoint import CONFIG, load_checkpoint, read_json

    p = params.load()
    place = find_stage(p, name)
    checkpoint = CHECKPOINTS / name
    read_json(checkpoint / CONFIG)
    sections = {
        "evaluation": p.evaluation,
        "training": p.training,
        "kernel": p.kernel,
        "seed": p.seed,
        "stage": place.stage,
    }
    inputs = {**place.inputs, "checkpoint": sha256_folder(checkpoint), "geometry": sha256_file(GEOMETRY / MANIFEST)}
    with (
        display(f"evaluate {name}") as show,
        work.scratch(f"evaluate-{name}", __name__, sections, inputs) as scratch,
    ):
        model = load_checkpoint(checkpoint, MODELS / "llm", DTYPES[p.training.dtype])
        model = model.to(choose_device(p.training.device))
        data = {
            split: TrainingData(
                CORPUS, place.features, split, model.tokenizer, model.params.max_caption_tokens, model.notation
            )
            for split in ("validation", "test")
        }
        check_codec(data["test"], model.grammar)
        setting = Setting(place.stage, p.training, p.evaluation, p.kernel, p.seed)
        reader = ShardReader(GEOMETRY, "geometry")
        figures = measure(model, data["validation"], data["test"], reader, setting, scratch, params.num_workers(), show)
        for combination, found in figures["combinations"].items():
            distance = found["chamfer_l1_mean_median"]
            shown = "-" if distance is None else f"{distance:.3f}"
            loss, valid = found["validation_loss"], found["valid_rate"]
            show.say(f"{combination}: loss {loss:.3f}, valid {valid:.0%}, chamfer median {shown}")
        write_text(_metrics_file(name), json.dumps(figures, indent=1, sort_keys=True) + "\n")
        publish(scratch, EVALUATIONS / name)


def _metrics_file(name: str) -> Path:
    return METRICS / "evaluate" / f"{name}.json"
