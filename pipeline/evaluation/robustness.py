"""Worse inputs than those of training: noisy clouds, clouds with points missing, parts seen from elsewhere.

The features of training cannot be reused here: the test models are drawn again, disturbed, and encoded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.evaluation.cases import Case
from pipeline.evaluation.disturbances import TurnTask, noisy, thinned, turned_views
from pipeline.evaluation.evaluate import shown_by
from pipeline.evaluation.evaluator import Batch, Evaluator, Measurement
from pipeline.evaluation.settings import Robustness
from pipeline.execution.pool import Failure, Pool
from pipeline.features.memory import remedies
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.generation.prompt import Encoders
from pipeline.metrics.statistics import estimate, rates
from pipeline.runtime.seeds import generator
from pipeline.settings import memory
from pipeline.settings.places import MODELS

Kind = Literal["noise", "dropped", "rotation"]
Turning = Pool[TurnTask, np.ndarray]
METRICS = ("chamfer_l1_mean", "f_score_005", "normal_consistency", "volumetric_iou")


class DisturbedEvaluator(Evaluator):
    """Measures test models whose clouds are worse, or which were turned before they were drawn."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        limits = self.setting.kernel
        self.encoders = Encoders(self.model, MODELS)
        self.turning = self.workers.pool(turned_views, limits.timeout_s, limits.memory_mib)

    def __exit__(self, *raised: object) -> None:
        with self.turning:
            super().__exit__(*raised)

    def made(self, batch: Batch) -> list[Any]:
        """The results of one batch."""
        (measurement, start), rows = batch, self.rows_of(batch)
        combination, level = measurement.combination, measurement.level
        if measurement.kind == "rotation":
            cases = _turned_cases(self, combination, self.encoders, self.turning, level, rows)
        else:
            disturb = noisy if measurement.kind == "noise" else thinned
            cases = _disturbed_cases(self, combination, self.encoders, disturb, level, rows)
        return self.measured(measurement.name, cases, start, pictures=False)


def robustness(
    evaluator: Evaluator, settings: Robustness, progress: Callable[[int, int, str], None]
) -> list[dict[str, Any]]:
    """Figures for every disturbance, beside those of the undisturbed input.

    Args:
        evaluator: a ``DisturbedEvaluator``.

    Returns:
        Rows of ``input``, ``disturbance``, ``level`` (0: none) and figures. Points and images are shown with the
        caption, or alone where the stage knows only that.
    """
    rows, measurements = [], list(planned(evaluator, settings))
    evaluator.ahead(measurements, progress)
    for number, each in enumerate(measurements):
        progress(number, len(measurements), f"{each.kind} {each.level:g}")
        results = evaluator.results(each)
        rows.append(
            {
                "input": each.combination,
                "disturbance": each.kind,
                "level": each.level,
                "num_models": len(results),
                "valid_rate": rates(results)["valid_rate"],
                **{name: estimate([r["metrics"][name] for r in results]) for name in METRICS},
            }
        )
    progress(1, 1, "all disturbances measured")
    return rows


def table(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Disturbance, level and median chamfer distance for a plot; level 0 begins every disturbance of an input."""
    bases = {row["input"]: row for row in rows if row["level"] == 0}
    found = []
    for name in dict.fromkeys(row["disturbance"] for row in rows):
        own = [row for row in rows if row["disturbance"] == name]
        for row in own if own[0]["level"] == 0 else [bases[own[0]["input"]], *own]:
            median = row["chamfer_l1_mean"]["median"]
            found.append((name, row["level"], median))
    return found


def planned(evaluator: Evaluator, settings: Robustness) -> Iterator[Measurement]:
    """What is measured."""
    points, image = (shown_by(evaluator.setting.stage.combinations, modality) for modality in ("point_cloud", "image"))
    tried: list[tuple[str | None, Kind, Sequence[float]]] = []
    if settings.noise or settings.dropped:
        tried += [(points, "noise", (0.0, *settings.noise)), (points, "dropped", settings.dropped)]
    if settings.rotations_deg:
        tried += [(image, "rotation", (0.0, *settings.rotations_deg))]
    for combination, kind, levels in tried:
        if combination is not None:
            for level in levels:
                yield Measurement(f"{kind}-{level:g}", tuple(evaluator.rows), combination, kind, level=level)


def _disturbed_cases(
    evaluator: Evaluator,
    combination: str,
    encoders: Encoders,
    disturb: Callable[[np.ndarray, float, np.random.Generator], np.ndarray],
    level: float,
    rows: Sequence[int],
) -> list[Case]:
    """Test models with a worse cloud; the truth to measure against is the whole one."""
    cases, seed, test = evaluator.cases.shown(combination, rows), evaluator.setting.seed, evaluator.test
    generators = [generator(seed, "disturbed", test.key(case.row)) for case in cases]
    clouds = [disturb(case.true_points, level, rng) for case, rng in zip(cases, generators, strict=True)]
    with _encoding(evaluator, "point_cloud"):
        encoded = encoders.points(clouds)
    return [
        replace(case, inputs=replace(case.inputs, points=points), cloud=cloud)
        for case, cloud, points in zip(cases, clouds, encoded, strict=True)
    ]


def _turned_cases(
    evaluator: Evaluator, combination: str, encoders: Encoders, turning: Turning, degrees: float, rows: Sequence[int]
) -> list[Case]:
    """Test models, turned before they are seen; the truth to measure against is the part as it was."""
    cases = evaluator.cases.shown(combination, rows)
    num_views, size = evaluator.model.feature_shapes["image"][0], encoders.image_size
    tasks = [
        TurnTask(
            tuple(evaluator.test.program(case.row).tolist()), evaluator.model.grammar.bits, degrees, num_views, size
        )
        for case in cases
    ]
    seen, shown = [], []
    for case, views in zip(cases, turning.map(tasks), strict=True):
        if not isinstance(views, Failure):  # true programs build; one that timed out here is left out
            seen.append(case)
            shown.append([Image.fromarray(views[number]) for number in case.inputs.views])
    with _encoding(evaluator, "image"):
        encoded = encoders.images(shown)
    return [
        replace(case, inputs=replace(case.inputs, image=image), pictures=None)  # what looks like them is turned, too
        for case, image in zip(seen, encoded, strict=True)
    ]


def _encoding(evaluator: Evaluator, modality: str) -> AbstractContextManager[None]:
    """Around the encoder of a modality, which is not what takes memory elsewhere in a measurement."""
    device, kind = evaluator.model.device, ImageFeatures if modality == "image" else PointFeatures
    settings = kind(**evaluator.model.feature_details[modality]["settings"])
    return memory.explained(
        lambda: f"on {device} with {modality}s, encoded as the checkpoint's features were",
        lambda: remedies(modality, settings, device.type != "cpu"),
    )
