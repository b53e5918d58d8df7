"""The evaluate stage: validation loss, and test models generated and built, for every combination."""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import interrupt
from pipeline.atomic import write_text
from pipeline.cad.sandbox import Failure, Sandbox
from pipeline.data.draw import sample_seed
from pipeline.evaluation.geometry import AssessTask, assess, chamfer
from pipeline.generation.generate import generate_tokens
from pipeline.model.cad_mllm import CadMllm
from pipeline.params import CurriculumStage, Evaluation, Kernel, Training
from pipeline.shards.reader import ShardReader
from pipeline.training.batches import TrainingData
from pipeline.training.curriculum import uniform, views_for
from pipeline.training.parallel import Parallel
from pipeline.training.plan import Example
from pipeline.training.validation import validate

GENERATED = "generated.jsonl"
PICTURE_SIZE = 224


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters that an evaluation depends on, besides the model."""

    stage: CurriculumStage
    training: Training
    evaluation: Evaluation
    kernel: Kernel
    seed: int


def evaluate(
    model: CadMllm,
    validation: TrainingData,
    test: TrainingData,
    geometry: ShardReader,
    setting: Setting,
    scratch: Path,
    num_workers: int,
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """Measure a model; generated programs and pictures are written to ``scratch``.

    Returns:
        Figures for each combination, and between which bounds chamfer distances lie.
    """
    stage, limits = setting.stage, setting.evaluation
    parallel = Parallel(setting.training)
    losses = validate(model, validation, stage, setting.training, model.num_tokens(), setting.seed, parallel)
    rows = [row for row in range(len(test.rows)) if geometry.has(test.rows[row].shard, test.rows[row].key)]
    rows = sorted(rows, key=lambda row: uniform(setting.seed, "test", test.keys[row]))[: limits.num_test_models]
    clouds = {row: geometry.array(test.rows[row].shard, test.rows[row].key, "points.npy") for row in rows}
    scratch.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    everything: list[dict[str, Any]] = []
    with Sandbox(assess, num_workers, setting.kernel.timeout_s, setting.kernel.memory_mib) as sandbox:
        for number, combination in enumerate(stage.combinations):
            progress(number * len(rows), len(stage.combinations) * len(rows), f"generating from {combination}")
            finished = scratch / f"{combination}.json"
            if not finished.is_file():
                results = _measure(model, test, rows, combination, setting, clouds, sandbox, scratch)
                write_text(finished, json.dumps(results))
            results = json.loads(finished.read_text(encoding="utf-8"))
            figures[combination] = {"validation_loss": losses[combination], **summarise(results)}
            everything += results
    for row in rows:
        where = test.rows[row]
        (scratch / f"{where.key}.true.png").write_bytes(geometry.bytes(where.shard, where.key, "view0.png"))
    for combination in stage.combinations:
        (scratch / f"{combination}.json").unlink()
    progress(1, 1, "solids built and measured")
    write_text(scratch / GENERATED, "".join(json.dumps(r, sort_keys=True) + "\n" for r in everything))
    return {"combinations": figures, "chamfer_l1_mean_bounds": bounds(list(clouds.values()), limits.num_points)}


def _measure(
    model: CadMllm,
    test: TrainingData,
    rows: list[int],
    combination: str,
    setting: Setting,
    clouds: dict[int, np.ndarray],
    sandbox: Sandbox[AssessTask, dict[str, Any]],
    folder: Path,
) -> list[dict[str, Any]]:
    """Generate from one combination, build what was written, and compare it with the true clouds."""
    programs = _generate(model, test, rows, combination, setting)
    tasks = [
        AssessTask(
            tuple(tokens),
            model.grammar.bits,
            clouds[row],
            setting.evaluation.num_points,
            sample_seed(setting.seed, test.keys[row]),
            PICTURE_SIZE,
        )
        for row, tokens in zip(rows, programs, strict=True)
    ]
    return [
        _result(test, row, combination, tokens, answer, folder)
        for row, tokens, answer in zip(rows, programs, sandbox.map(tasks), strict=True)
    ]


def _generate(
    model: CadMllm, test: TrainingData, rows: list[int], combination: str, setting: Setting
) -> list[list[int]]:
    """Greedy, grammar-constrained programs for test rows."""
    num_views, shown = model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample
    programs: list[list[int]] = []
    for start in range(0, len(rows), setting.evaluation.batch_size):
        interrupt.check()
        inputs = []
        for row in rows[start : start + setting.evaluation.batch_size]:
            views = views_for(num_views, shown, setting.seed, -1, test.keys[row]) if "image" in combination else ()
            inputs.append(test.load(Example(row, combination, views, 0, 0), with_program=False))
        programs += generate_tokens(model, inputs, setting.evaluation.max_new_tokens)
    return programs


def _result(
    test: TrainingData, row: int, combination: str, tokens: list[int], answer: dict[str, Any] | Failure, folder: Path
) -> dict[str, Any]:
    """One line of ``generated.jsonl``; the picture goes beside it."""
    where = test.rows[row]
    result: dict[str, Any] = {
        "id": where.id,
        "key": where.key,
        "combination": combination,
        "caption": where.caption,
        "tokens": tokens,
        "true_tokens": test.program(row).tolist(),
    }
    if isinstance(answer, Failure):
        return {**result, "valid": False, "reason": answer.reason, "detail": answer.detail}
    (folder / f"{where.key}.{combination}.png").write_bytes(answer["picture"])
    return {**result, "valid": True, **{name: value for name, value in answer.items() if name != "picture"}}


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates and distances of one combination. Failures count as infinitely far in the median of all."""
    valid = [r for r in results if r["valid"]]
    distances = [r["chamfer_l1_mean"] for r in valid]
    failed = len(results) - len(valid)
    median_of_all = statistics.median(distances + [float("inf")] * failed)
    exact = sum(r["tokens"] == r["true_tokens"] for r in results)
    return {
        "num_models": len(results),
        "valid_rate": len(valid) / len(results),
        "exact_rate": exact / len(results),
        "chamfer_l1_mean_median": statistics.median(distances) if distances else None,
        "chamfer_l1_mean_median_failures_counted": median_of_all if np.isfinite(median_of_all) else None,
        "chamfer_l1_mean_mean": statistics.fmean(distances) if distances else None,
        "chamfer_squared_sum_median": statistics.median(r["chamfer_squared_sum"] for r in valid) if valid else None,
        "tokens_mean": statistics.fmean(len(r["tokens"]) for r in results),
        "reasons": {
            reason: sum(r.get("reason") == reason for r in results)
            for reason in sorted({r["reason"] for r in results if not r["valid"]})
        },
    }


def bounds(clouds: list[np.ndarray], num_points: int) -> dict[str, float]:
    """What a chamfer distance can be here, as medians over test models.

    Returns:
        ``floor``: a model to itself, two drawings of ``num_points`` points; ``chance``: a model to the next one,
        which is what ignoring the input would give.
    """
    rng = np.random.default_rng(0)
    drawn = [cloud[rng.permutation(len(cloud)), :3] for cloud in clouds]
    first = [cloud[:num_points] for cloud in drawn]
    second = [cloud[-num_points:] for cloud in drawn]
    own = [chamfer(a, b)["chamfer_l1_mean"] for a, b in zip(first, second, strict=True)]
    other = [chamfer(a, second[(i + 1) % len(second)])["chamfer_l1_mean"] for i, a in enumerate(first)]
    return {"floor": statistics.median(own), "chance": statistics.median(other)}
