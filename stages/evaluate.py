"""The ``evaluate`` stages: what a curriculum stage's checkpoint can do."""

import json
from typing import Annotated

import typer

from pipeline.curriculum.place import find_trained
from pipeline.evaluation.setup import EvaluateSections, make_evaluator, measuring, own_folders
from pipeline.model.checkpoint_folder import LINEAGE, read_json
from pipeline.runtime.atomic import publish, write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import clean
from pipeline.settings.places import CHECKPOINTS, EVALUATIONS, METRICS


@long_running
def evaluate(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of `curriculum` whose checkpoint is measured.")],
) -> None:
    """Measure a checkpoint: validation loss, valid solids and distances for every combination of modalities."""
    p = EvaluateSections.load()
    place = find_trained(p.curriculum, name)
    from pipeline.evaluation.evaluate import evaluate as measure
    from pipeline.metrics.summary import stage_summary
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
        publish(evaluator.whole, EVALUATIONS / name)
        clean(scratch)
        mirror_evaluation(p, name, read_json(CHECKPOINTS / name / LINEAGE), figures, show.say)
