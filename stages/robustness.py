"""The ``robustness`` stage: the last checkpoint with worse inputs."""

import json
from typing import Any

from pipeline.curriculum.place import find_trained
from pipeline.evaluation.setup import RobustnessSections, make_evaluator, measuring, own_folders
from pipeline.runtime.atomic import write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.csv_files import csv_text
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import clean
from pipeline.settings.places import METRICS, PLOTS


@long_running
def robustness() -> None:
    """Try the last checkpoint on noisy clouds, clouds with points missing, and parts seen from elsewhere."""
    p = RobustnessSections.load()
    place = find_trained(p.curriculum, list(p.curriculum)[-1])
    from pipeline.evaluation.robustness import DisturbedEvaluator, table
    from pipeline.evaluation.robustness import robustness as measure

    sections = {"evaluation": p.evaluation, "robustness": p.robustness}
    with display("robustness") as show, measuring("robustness", p, place, __name__, sections) as scratch:
        evaluator, _ = make_evaluator(p, place, scratch, p.evaluation, own_folders(place), kind=DisturbedEvaluator)
        show.say(f"{len(evaluator.rows)} test models, on {evaluator.model.device}")
        with evaluator:
            rows = measure(evaluator, p.robustness, show)
        for row in rows:
            show.say(
                f"{row['input']}, {row['disturbance']} {row['level']:g}: valid {row['valid_rate']:.0%}, "
                f"chamfer median {row['chamfer_l1_mean']['median']:.3f}"
            )
        write_text(PLOTS / "robustness.csv", csv_text(["disturbance", "level", "chamfer_l1_mean_median"], table(rows)))
        write_text(METRICS / "robustness.json", json.dumps(_by_level(rows), indent=1, sort_keys=True) + "\n")
        clean(scratch)


def _by_level(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as DVC shows metrics: by disturbance and level."""
    found: dict[str, Any] = {}
    for row in rows:
        found.setdefault(row["disturbance"], {})[f"{row['level']:g}"] = row
    return found
