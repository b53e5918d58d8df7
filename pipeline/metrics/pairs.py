"""Predicted CAD files and true ones: which is compared with which."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.cad.exchange.formats import READABLE, check_file
from pipeline.runtime.errors import UserError


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
        check_file(predicted, READABLE)
        check_file(truth, READABLE)
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
