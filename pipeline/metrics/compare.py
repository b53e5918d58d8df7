"""Predicted CAD files against true ones: their figures one by one and all together."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.metrics.assess import CompareTask
from pipeline.metrics.pairs import Pair
from pipeline.metrics.statistics import COUNTED, OF_SOLIDS, estimate
from pipeline.runtime.errors import UserError


def compare_pairs(
    found: Sequence[Pair],
    task: Callable[[Path | None, Path], CompareTask],
    sandbox: Sandbox[CompareTask, dict[str, Any]],
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    """One line for each pair: ``name``, ``builds``, ``valid``, ``metrics``, and ``reason`` where there is no solid.

    Raises:
        UserError: a true file cannot be read or built.
    """
    answers: list[dict[str, Any] | Failure] = []
    for answer in sandbox.map(task(pair.predicted, pair.true) for pair in found):
        answers.append(answer)
        progress(len(answers), len(found), "pairs measured")
    # Those that took their worker with them: what they count as has still to be computed.
    lost = [number for number, answer in enumerate(answers) if isinstance(answer, Failure)]
    nothing = dict(zip(lost, sandbox.map(task(None, found[number].true) for number in lost), strict=True))
    return [
        {"name": pair.name, **(_counted(pair, answer, nothing[number]) if isinstance(answer, Failure) else answer)}
        for number, (pair, answer) in enumerate(zip(found, answers, strict=True))
    ]


def _counted(pair: Pair, failure: Failure, nothing: dict[str, Any] | Failure) -> dict[str, Any]:
    """What a prediction that failed is counted as."""
    if isinstance(nothing, Failure):
        raise UserError(f"{pair.true}, a true file, cannot be used: {nothing.reason}: {nothing.detail}")
    return {**nothing, "reason": failure.reason, "detail": failure.detail}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all pairs, failures counted."""
    built = [result for result in results if result["builds"]]
    return {
        "num_pairs": len(results),
        "build_rate": len(built) / len(results),
        "valid_rate": sum(result["valid"] for result in results) / len(results),
        "metrics": {name: estimate([result["metrics"][name] for result in results]) for name in COUNTED},
        "of_built": {name: estimate([result["metrics"][name] for result in built]) for name in COUNTED + OF_SOLIDS},
    }
