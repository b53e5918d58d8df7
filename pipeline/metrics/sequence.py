"""How much of a program's text is right: command and parameter accuracy as DeepCAD defines them (Wu et al. 2021).

DeepCAD compares position by position: a command is right where it is the true one, a parameter where its command is
right and it is less than 3 of 256 levels off (kinds, directions and operations exactly). DeepCAD's own figures leave
out what one sequence has beyond the other; here every position of the longer one counts. Coordinates are those of the
normalised frame, where positions mean the same in every sketch, not those of a sketch scaled by its own size.
"""

import math
from dataclasses import dataclass

from pipeline.cad.language.program import Arc, CadProgram, Circle, Extrude, Line, Loop

TOLERANCE = 3  # levels
LEVELS = 256


@dataclass(frozen=True, slots=True)
class Command:
    """One command with its parameters.

    Attributes:
        kind: ``SOL`` (start of a loop), ``L``, ``A``, ``R``, ``E`` or ``EOS``, DeepCAD's names.
        values: parameters in levels, 256 of them over [-1, 1] or a whole turn.
        exact: parameters that are right or wrong, such as an operation.
    """

    kind: str
    values: tuple[float, ...] = ()
    exact: tuple[str, ...] = ()


def commands(program: CadProgram) -> list[Command]:
    """A normalised program as DeepCAD's commands: the loops of a profile, then its extrusion."""
    found = []
    for extrude in program.extrudes:
        for sketch in extrude.sketches:
            for profile in sketch.profiles:
                for loop in profile.loops:
                    found += [Command("SOL"), *_curves(loop)]
                found.append(_extrusion(extrude, sketch.plane.normal, sketch.plane.origin))
    return [*found, Command("EOS")]


def _level(value: float) -> float:
    return round((value + 1) / 2 * LEVELS)


def _turn(angle: float) -> float:
    return round(angle / (2 * math.pi) * LEVELS)


def _curves(loop: Loop) -> list[Command]:
    found = []
    for curve in loop.curves:
        match curve:
            case Line(end=(x, y)):
                found.append(Command("L", (_level(x), _level(y))))
            case Arc(end=(x, y), sweep=sweep):
                direction = "left" if sweep > 0 else "right"
                found.append(Command("A", (_level(x), _level(y), _turn(abs(sweep))), (direction,)))
            case Circle(centre=(x, y), radius=radius):
                found.append(Command("R", (_level(x), _level(y), _level(radius))))
    return found


def _extrusion(extrude: Extrude, normal: tuple[float, ...], origin: tuple[float, ...]) -> Command:
    low, high = extrude.extent.interval
    height = sum(n * o for n, o in zip(normal, origin))
    polar, azimuth = math.acos(max(-1.0, min(1.0, normal[2]))), math.atan2(normal[1], normal[0])
    values = (_turn(polar), _turn(azimuth) % LEVELS, _level(height + low), _level(height + high))
    return Command("E", values, (extrude.operation.value,))


def sequence_accuracy(predicted: CadProgram | None, true: CadProgram) -> dict[str, float]:
    """Accuracies of one program, 0 to 1; all 0 where nothing parses.

    Returns:
        ``command_accuracy``: share of the positions of the longer sequence with the true command;
        ``parameter_accuracy``: share of right parameters where the command is right (DeepCAD's);
        ``parameter_accuracy_all``: the same share of all true parameters, those of missed commands being wrong.
    """
    theirs = commands(true)
    ours = commands(predicted) if predicted is not None else []
    same = [(a, b) for a, b in zip(ours, theirs, strict=False) if a.kind == b.kind]
    right = sum(_right(a, b) for a, b in same)
    reached = sum(len(b.values) + len(b.exact) for _, b in same)
    return {
        "command_accuracy": len(same) / max(len(ours), len(theirs)),
        "parameter_accuracy": right / reached if reached else 0.0,
        "parameter_accuracy_all": right / sum(len(b.values) + len(b.exact) for b in theirs),
    }


def _right(a: Command, b: Command) -> int:
    near = sum(abs(x - y) < TOLERANCE for x, y in zip(a.values, b.values, strict=True))
    return near + sum(x == y for x, y in zip(a.exact, b.exact, strict=True))
