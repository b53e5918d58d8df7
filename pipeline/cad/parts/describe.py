"""Programs in words: what a person would say who reads the drawing."""

import math
from collections import Counter

from pipeline.cad.language.planar import corners, merged
from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Extent,
    ExtentKind,
    Extrude,
    Loop,
    Operation,
    Plane,
    Profile,
)
from pipeline.cad.parts.captions import NUMBERS, article, count

VERBS = {
    Operation.NEW: "new body",
    Operation.JOIN: "join",
    Operation.CUT: "cut",
    Operation.INTERSECT: "intersect",
}
DIRECTIONS = (("x", (1.0, 0.0, 0.0)), ("y", (0.0, 1.0, 0.0)), ("z", (0.0, 0.0, 1.0)))
PLANES = {"x": "YZ", "y": "ZX", "z": "XY"}
SHAPES = {3: "triangle", 5: "pentagon", 6: "hexagon", 8: "octagon"}


def describe(program: CadProgram) -> list[str]:
    """One line for each extrusion, lengths in millimetres of a program in metres."""
    return [f"{number}. {describe_extrude(extrude)}" for number, extrude in enumerate(program.extrudes, 1)]


def describe_extrude(extrude: Extrude) -> str:
    """One extrusion: operation, profiles, plane, extent."""
    parts = []
    for sketch in extrude.sketches:
        shown = Counter(describe_profile(profile) for profile in sketch.profiles)
        profiles = ", ".join(f"{number} x {text}" if number > 1 else article(text) for text, number in shown.items())
        parts.append(f"{profiles} on {describe_plane(sketch.plane)}")
    return f"{VERBS[extrude.operation]}: {'; '.join(parts)}, {describe_extent(extrude.extent)}"


def describe_plane(plane: Plane) -> str:
    """``the XY plane at z = 12``, or the normal of an oblique one; a reversed normal is said."""
    for name, direction in DIRECTIONS:
        along = sum(a * b for a, b in zip(plane.normal, direction, strict=True))
        if abs(along) > 1 - 1e-6:
            height = plane.origin["xyz".index(name)]
            reverse = "" if along > 0 else ", facing down" if name == "z" else f", facing -{name}"
            at = f" at {name} = {millimetres(height)}" if abs(height) > 1e-6 else ""
            return f"the {PLANES[name]} plane{at}{reverse}"
    x, y, z = plane.normal
    return f"an oblique plane with normal ({x:.3f}, {y:.3f}, {z:.3f})"


def describe_extent(extent: Extent) -> str:
    """How far, and which way."""
    match extent.kind:
        case ExtentKind.SYMMETRIC:
            return f"{millimetres(abs(extent.one))} mm to either side"
        case ExtentKind.TWO_SIDED:
            return f"{millimetres(extent.one)} mm one way and {millimetres(extent.two)} mm the other"
        case ExtentKind.ONE_SIDED:
            way = " against the normal" if extent.one < 0 else ""
            return f"{millimetres(abs(extent.one))} mm{way}"


def describe_profile(profile: Profile) -> str:
    """An outer loop and its holes."""
    holes = Counter(describe_loop(hole) for hole in profile.holes)
    text = describe_loop(profile.outer)
    if not holes:
        return text
    shown = [f"{exactly(number, 'hole')} ({hole})" for hole, number in holes.items()]
    return f"{text} with {' and '.join(shown)}"


def describe_loop(loop: Loop) -> str:
    """``40 x 20 mm rectangle, rounded 5 mm``."""
    loop = merged(loop)
    first = loop.curves[0]
    if isinstance(first, Circle):
        return f"{millimetres(2 * first.radius)} mm circle"
    outline = loop.outline()
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    box = f"{millimetres(max(xs) - min(xs))} x {millimetres(max(ys) - min(ys))} mm"
    points = corners(loop)
    radii = sorted({millimetres(corner.radius) for corner in points if corner.radius}, key=float)
    rounded = f", rounded {' and '.join(radii)} mm" if radii else ""
    arcs = sum(bool(corner.sweep) for corner in points)
    if arcs:
        lines = len(points) - arcs
        halves = [edge for edge in loop.edges if isinstance(edge, Arc) and abs(abs(edge.sweep) - math.pi) < 1e-3]
        if len(points) == 4 and arcs == len(halves) == 2:
            return f"{box} slot{rounded}"
        return f"{box} outline of {exactly(lines, 'line')} and {exactly(arcs, 'arc')}{rounded}"
    if len(points) == 4:
        return f"{box} {_quadrilateral([corner.at for corner in points])}{rounded}"
    return f"{box} {SHAPES.get(len(points), f'{len(points)}-cornered outline')}{rounded}"


def _quadrilateral(points: list[tuple[float, float]]) -> str:
    sides = [math.dist(points[i - 1], points[i]) for i in range(4)]
    diagonals = math.dist(points[0], points[2]), math.dist(points[1], points[3])
    size = max(diagonals)

    def same(a: float, b: float) -> bool:
        return abs(a - b) < 1e-4 * size

    if same(*diagonals) and same(sides[0], sides[2]) and same(sides[1], sides[3]):
        return "square" if same(sides[0], sides[1]) else "rectangle"
    return "quadrilateral"


def exactly(number: int, noun: str) -> str:
    """``four holes``, ``24 holes``."""
    return count(number, noun) if number < len(NUMBERS) else f"{number} {noun}s"


def millimetres(length: float) -> str:
    """A length in metres as millimetres, with four digits at most behind which there is no other."""
    if abs(length) <= 1e-12:
        return "0"
    value = length * 1000
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sentence(program: CadProgram) -> str:
    """A caption from the program alone: what it is built from, without sizes."""
    bodies = Counter(
        _plain(profile)
        for extrude in program.extrudes
        if extrude.operation in (Operation.NEW, Operation.JOIN)
        for sketch in extrude.sketches
        for profile in sketch.profiles
    )
    cuts = sum(
        len(sketch.profiles)
        for extrude in program.extrudes
        if extrude.operation is Operation.CUT
        for sketch in extrude.sketches
    )
    listed = [article(name) if number == 1 else count(number, name) for name, number in sorted(bodies.items())]
    text = listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1]
    cut = f", with {count(cuts, 'cut')}" if cuts else ""
    return f"Generate a CAD model made of {text}{cut}."


def _plain(profile: Profile) -> str:
    """The kind of prism that a profile makes."""
    loop = merged(profile.outer)
    if isinstance(loop.curves[0], Circle):
        return "ring" if profile.holes else "cylinder"
    points = corners(loop)
    sharp = not any(corner.radius for corner in points)
    plain = len(points) == 4 and not any(corner.sweep for corner in points)
    if plain and _quadrilateral([corner.at for corner in points]) != "quadrilateral":
        name = "block" if sharp else "rounded block"
    else:
        name = "prism"
    return f"{name} with {count(len(profile.holes), 'hole')}" if profile.holes else name
