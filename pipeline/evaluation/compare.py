"""Predicted CAD files against true ones: a pair, or two folders matched by name."""

from collections.abc import Callable, Iterable
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
    found: Iterable[Pair],
    task: Callable[[Path | None, Path], CompareTask],
    sandbox: Sandbox[CompareTask, dict[str, Any]],
) -> Iterable[dict[str, Any]]:
    """One line for each pair: ``name``, ``builds``, ``valid``, ``metrics``, and ``reason`` where there is no solid.

    Raises:
        UserError: a true file cannot be read or built.
    """
    found = list(found)
    for pair, answer in zip(found, sandbox.map(task(pair.predicted, pair.true) for pair in found), strict=True):
        if not isinstance(answer, Failure):
            yield {"name": pair.name, **answer}
            continue
        # It took the worker with it, so what it counts as has still to be computed.
        nothing = next(sandbox.map([task(None, pair.true)]))
        if isinstance(nothing, Failure):
            raise UserError(f"{pair.true}, a true file, cannot be used: {nothing.reason}: {nothing.detail}")
        yield {"name": pair.name, **nothing, "reason": answer.reason, "detail": answer.detail}


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
