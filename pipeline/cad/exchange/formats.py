"""Which files hold what, by their suffix, and what is wrong with a path: known before anything is loaded."""

import os
from enum import StrEnum
from pathlib import Path

from pipeline.runtime.errors import UserError

SCRIPTS = (".py",)
PROGRAMS = (".json", ".tokens", *SCRIPTS)
SOLIDS = (".step", ".stp")
GLTF = (".glb",)
MESHES = (".stl", ".ply", ".obj", *GLTF)
PICTURES = (".png",)
READABLE = PROGRAMS + SOLIDS + MESHES
WRITABLE = READABLE + PICTURES
ARRAYS = (".npy", ".npz")
TEXTS = (".xyz", ".pts", ".txt", ".csv")
SCANS = ARRAYS + TEXTS + MESHES + SOLIDS  # what points are taken from


class Library(StrEnum):
    """CAD libraries of Python that scripts are for."""

    CADQUERY = "cadquery"
    BUILD123D = "build123d"


class StepSchema(StrEnum):
    """Application protocols of STEP that CAD systems read."""

    AP214 = "AP214IS"
    AP242 = "AP242DIS"


class Unit(StrEnum):
    """Of the numbers in a cloud or a mesh, whose files do not say it."""

    MM = "mm"
    CM = "cm"
    M = "m"
    IN = "in"

    @property
    def metres(self) -> float:
        """How many metres it is."""
        return {Unit.MM: 0.001, Unit.CM: 0.01, Unit.M: 1.0, Unit.IN: 0.0254}[self]


def check_unit(path: Path, unit: Unit | None) -> Unit:
    """The unit of a file's numbers: metres where none is asked for.

    Raises:
        UserError: one is, for a file that says its own.
    """
    if unit is not None and path.suffix.lower() in PROGRAMS + SOLIDS + GLTF:
        raise UserError(f"--unit {unit}: {path} has a unit of its own; --unit is for clouds and meshes")
    return unit or Unit.M


def check_written_unit(path: Path, unit: Unit | None) -> Unit:
    """The unit of the numbers in a file that is written: metres where none is asked for.

    Raises:
        UserError: one is, for what is no mesh, or is always in metres.
    """
    if unit is not None and path.suffix.lower() not in set(MESHES) - set(GLTF):
        raise UserError(f"--to-unit {unit}: {path} is no mesh, or always in metres; it is for .stl, .ply and .obj")
    return unit or Unit.M


def check_file(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise ``UserError`` where a path is no file, or has none of the suffixes that are asked for."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: one of {', '.join(suffixes)} is needed")
    if not path.is_file():
        raise UserError(f"{path} does not exist, or is no file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: permission denied")


def check_program(path: Path) -> None:
    """Raise ``UserError`` where a path is no file that holds a program."""
    check_file(path, READABLE)
    if path.suffix.lower() not in PROGRAMS:
        raise UserError(f"{path}: only {' and '.join(PROGRAMS)} hold a program")


def check_writable(path: Path) -> None:
    """Raise ``UserError`` where a path names no format that we write, or cannot be written."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path}: one of {', '.join(WRITABLE)} is needed")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{path.parent} is not a folder")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'permission denied'}")


def check_picture(source: Path, picture: Path) -> None:
    """Raise ``UserError`` where a file cannot be drawn, or not to that path."""
    if source.suffix.lower() not in READABLE:
        raise UserError(f"--picture: {source} holds points; only solids, meshes and what builds them are drawn")
    if picture.suffix.lower() not in PICTURES:
        raise UserError(f"{picture}: one of {', '.join(PICTURES)} is needed")
    check_writable(picture)


def check_pair(source: Path, target: Path) -> None:
    """Raise ``UserError`` for a conversion that there is no way to do."""
    check_file(source, READABLE)
    check_writable(target)
    kind, wanted = source.suffix.lower(), target.suffix.lower()
    if wanted in PROGRAMS and kind not in PROGRAMS:
        raise UserError(f"{source}: a program cannot be read off a finished shape; only {', '.join(PROGRAMS)} hold one")
    if wanted in SOLIDS and kind in MESHES:
        raise UserError(f"{source}: triangles make no exact solid; only {', '.join(PROGRAMS + SOLIDS)} can be {wanted}")
