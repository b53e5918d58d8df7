"""Figures over many models: rates, means and medians with failures counted, and how sure they are."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.runtime.seeds import generator

# Of predictions that failed, too: what they are counted as is in ``no_answer_metrics``.
COUNTED = (
    "chamfer_l1_mean",
    "chamfer_squared_sum",
    "chamfer_squared_sum_unit_cube",
    "f_score_005",
    "normal_consistency",
    "volumetric_iou",
)
# A solid's own; nothing can be said of one that is not there.
OF_SOLIDS = (
    "segment_error",
    "segments",
    "dangling_edge_length",
    "self_intersection_ratio",
    "flux_enclosure_error",
    "segments_merged",
    "dangling_edge_length_merged",
    "flux_enclosure_error_merged",
)
COMPLETION = "completion"  # the name of the programs that go on from a start
OF_SEQUENCES = ("command_accuracy", "parameter_accuracy", "parameter_accuracy_all")
RESAMPLES = 1000
COMPLEXITY = ((1, 1), (2, 3), (4, None))  # extrusions of the true program, from and to


def interval(values: Sequence[float], seed: int = 0, of: Callable[..., np.ndarray] = np.mean) -> list[float]:
    """The 95 % confidence interval of the mean, or the median, by bootstrap over models (of 1,000 resamples)."""
    rng = generator(seed, "bootstrap")
    array = np.asarray(values, np.float64)
    found = of(array[rng.integers(0, len(array), (RESAMPLES, len(array)))], axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return [float(low), float(high)]


def estimate(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean with its interval, and median. ``missing`` are those that could not be computed, and are left out."""
    known = [value for value in values if value is not None]
    missing = {"missing": len(values) - len(known)} if len(known) < len(values) else {}
    if not known:
        return {"mean": None, "mean_ci95": None, "median": None, **missing}
    return {
        "mean": statistics.fmean(known),
        "mean_ci95": interval(known),
        "median": statistics.median(known),
        **missing,
    }


def rates(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares of the programs that parse, that build, whose solid is watertight, and that are the true one."""
    count = len(results)
    return {
        "parse_rate": sum(r["parses"] for r in results) / count,
        "build_rate": sum(r["builds"] for r in results) / count,
        "valid_rate": sum(r["valid"] for r in results) / count,
        "exact_rate": sum(r["tokens"] == r["true_tokens"] for r in results) / count,
    }


def valid_share(combinations: Mapping[str, dict[str, Any]]) -> float:
    """The share of valid solids over all combinations of inputs, by their ``summarise``."""
    valid = sum(figures["valid_rate"] * figures["num_models"] for figures in combinations.values())
    return float(valid / sum(figures["num_models"] for figures in combinations.values()))


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All figures of one combination of inputs.

    Args:
        results: lines of ``generated.jsonl``.

    Returns:
        Rates; ``metrics`` with failures counted; ``of_valid``: the same and topology, of the valid ones alone;
        ``sequence``; ``by_complexity``: the main figures by the number of extrusions; ``reasons`` of failures.
    """
    valid = [r for r in results if r["valid"]]
    return {
        "num_models": len(results),
        **rates(results),
        "tokens_mean": statistics.fmean(len(r["tokens"]) for r in results),
        "metrics": {name: estimate([r["metrics"][name] for r in results]) for name in COUNTED},
        "of_valid": {name: estimate([r["metrics"][name] for r in valid]) for name in COUNTED + OF_SOLIDS},
        "sequence": {name: estimate([r["sequence"][name] for r in results]) for name in OF_SEQUENCES},
        "by_complexity": by_complexity(results),
        "reasons": dict(sorted(Counter(r["reason"] for r in results if not r["valid"]).items())),
    }


def by_complexity(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The main figures by the number of extrusions of the true program."""
    found = {}
    for low, high in COMPLEXITY:
        chosen = [r for r in results if low <= r["extrusions"] <= (high or r["extrusions"])]
        name = f"{low}" if high == low else f"{low}-{high}" if high else f"{low}+"
        if chosen:
            found[name] = {
                "num_models": len(chosen),
                "valid_rate": rates(chosen)["valid_rate"],
                "chamfer_l1_mean_median": statistics.median(r["metrics"]["chamfer_l1_mean"] for r in chosen),
            }
    return found
