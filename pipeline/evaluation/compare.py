"""Predicted CAD files against true ones: a pair, or two folders matched by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cad.files import READABLE, check_readable
from pipeline.cad.sandbox import Failure, Sandbox
from pipeline.errors import UserError
from pipeline.evaluation.assess import CompareTask
from pipeline.evaluation.statistics import COUNTED, OF_SOLIDS, estimate


@dataclass(frozen=True, slots=True)
class Pair:
    """A name, the predicted file or None where there is none, and the true one."""

    name: str
    predicted: Path | None
    true: Path


def pairs(predicted: Path, truth: Path) -> list[Pair]:
    """What is compared: two files, or the files of ``truth`` and those of the same name in ``predicted``.

    Names are compared without their suffixes and with their folders, so a STEP file can be the truth of a JSON one.

    Raises:
        UserError: there is nothing to compare, or a name stands for two files.
    """
    if predicted.is_dir() != truth.is_dir():
        raise UserError(f"{predicted} and {truth}: either two files or two folders")
    if not truth.is_dir():
        check_readable(predicted)
        check_readable(truth)
        return [Pair(predicted.name, predicted, truth)]
    own, true = _by_name(predicted), _by_name(truth)
    if not own.keys() & true.keys():
        raise UserError(f"no file in {predicted} has the name of one in {truth}")
    return [Pair(name, own.get(name), path) for name, path in true.items()]


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in READABLE and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise UserError(f"{found[name]} and {path} have the same name: which one is meant?")
            found[name] = path
    if not found:
        raise UserError(f"no CAD file ({', '.join(READABLE)}) in {folder}")
    return found


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
