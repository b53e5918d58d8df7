"""Words for parts of no family: what they are built from, as Omni-CAD's captions say it."""

import math
import random
from collections import Counter

from pipeline.cad.language.planar import Corner, corners, merged, turn_of
from pipeline.cad.language.program import Circle, Extrude, Loop
from pipeline.cad.parts.captions import article, count, proportion
from pipeline.cad.parts.draft import CUT, INTERSECT, Draft

SIDES = {3: "triangular", 5: "pentagonal", 6: "hexagonal", 8: "octagonal", 12: "twelve-sided"}
# Outlines with right angles alone, by how many outward corners lie between inward ones, the fewest first.
STEPPED = {(5,): "L-shaped", (0, 6): "U-shaped", (2, 4): "T-shaped", (3, 3): "Z-shaped"}
STEPPED |= {(2, 2, 2, 2): "cross-shaped", (0, 0, 4, 4): "H-shaped"}
SECTIONS = ("section", "section", "boss", "protrusion", "extension")
CUTS = ("cut", "cut", "pocket", "recess", "cutout")
PLURALS = {"boss": "bosses", "recess": "recesses"}
RIGHT = math.pi / 2
MOST = 4  # features that are told


def draft_of(rng: random.Random, extrudes: list[Extrude]) -> Draft:
    """The part with its words: the body, and some of what else can be seen."""
    sections, cuts, openings = Counter[str](), Counter[str](), Counter[str]()
    drilled = rng.random() < 0.7  # round cuts are holes
    features: list[str] = []
    for step in extrudes:
        for sketch in step.sketches:
            inclined = "" if max(map(abs, sketch.plane.normal)) > 1 - 1e-6 else "inclined "
            for profile in sketch.profiles:
                shape = _shape(profile.outer)
                if step.operation is CUT and shape == "cylindrical" and drilled:
                    openings[shape] += 1
                elif step.operation is CUT:
                    cuts[inclined + shape] += 1
                elif step.operation is INTERSECT:
                    features.append(f"sides trimmed to {article(f'{shape} outline')}")
                elif step is not extrudes[0]:
                    sections[inclined + shape] += 1
                openings.update(_shape(hole) for hole in profile.holes)
    features += [counted(number, f"{shape} {rng.choice(SECTIONS)}") for shape, number in sections.items()]
    features += [counted(number, f"{shape} {rng.choice(CUTS)}") for shape, number in cuts.items()]
    features += [counted(number, _opening(rng, shape)) for shape, number in openings.items()]
    return Draft(extrudes, _body(rng, extrudes[0]), rng.sample(features, min(len(features), MOST)))


def _body(rng: random.Random, first: Extrude) -> str:
    """The first extrusion as a noun phrase."""
    low, high = first.extent.interval
    profiles = [profile for sketch in first.sketches for profile in sketch.profiles]
    outer = profiles[0].outer
    width, height = _spans(outer)
    size = max(width, height)
    shape = _shape(outer)
    noun = rng.choice(("body", "body", "block" if high - low > 0.2 * size else "plate"))
    if shape == "cylindrical":
        name = "ring" if profiles[0].holes else "disc" if high - low < 0.4 * size else "cylinder"
        text = rng.choice((f"cylindrical {noun}", name))
    else:
        text = f"{shape} {noun}"
    if len(profiles) > 1:
        return f"{rng.choice(('set', 'group'))} of {count(len(profiles), _stem(text))}"
    is_long = high - low > 2.5 * size or min(width, height) < 0.25 * size
    return f"{'long ' if is_long and rng.random() < 0.7 else proportion(rng, high - low, size)}{text}"


def _stem(text: str) -> str:
    return text.replace("body", "part")


def _opening(rng: random.Random, shape: str) -> str:
    if shape == "cylindrical":
        return rng.choice(("circular hole", "circular hole", "round hole", "through hole"))
    return f"{shape} {rng.choice(('opening', 'hole', 'window'))}"


def counted(number: int, phrase: str) -> str:
    """``an L-shaped boss``, ``four L-shaped bosses``."""
    if number == 1:
        return article(phrase)
    text = count(number, phrase)
    for noun, plural in PLURALS.items():
        text = text.removesuffix(f"{noun}s") + plural if text.endswith(f"{noun}s") else text
    return text


def _shape(loop: Loop) -> str:
    """An outline as an adjective."""
    loop = merged(loop)
    if isinstance(loop.curves[0], Circle):
        return "cylindrical"
    points = corners(loop)
    rounded = "rounded " if any(corner.radius for corner in points) else ""
    arcs = sum(bool(corner.sweep) for corner in points)
    if arcs:
        return _curved(points, arcs)
    at = [corner.at for corner in points]
    turns = [turn_of(at[i - 1], at[i], at[(i + 1) % len(at)]) for i in range(len(at))]
    turns = turns if loop.signed_area > 0 else [-turn for turn in turns]
    if all(abs(abs(turn) - RIGHT) < 1e-3 for turn in turns):
        return rounded + _right_angled(turns)
    if len(at) == 4:
        return f"{rounded}four-sided"
    if min(turns) < 0:
        return f"{rounded}{'star-shaped' if sum(turn < 0 for turn in turns) * 2 == len(turns) else 'polygonal'}"
    return rounded + SIDES.get(len(at), "polygonal")


def _right_angled(turns: list[float]) -> str:
    inward = [i for i, turn in enumerate(turns) if turn < 0]
    if not inward:
        return "rectangular"
    gaps = sorted((inward[(i + 1) % len(inward)] - at - 1) % len(turns) for i, at in enumerate(inward))
    return STEPPED.get(tuple(gaps), "stepped")


def _curved(points: list[Corner], arcs: int) -> str:
    """Outlines with arcs."""
    half = sum(abs(abs(corner.sweep) - math.pi) < 1e-3 for corner in points)
    if len(points) == 4 and arcs == half == 2:
        return "slot-shaped"
    if len(points) == 2 and arcs == 1:
        return "half-round" if half else "segment-shaped"
    if len(points) == 4 and arcs == 1:
        return "round-ended" if half else "D-shaped"
    return "curved"


def _spans(loop: Loop) -> tuple[float, float]:
    xs, ys = zip(*loop.outline(), strict=True)
    return max(xs) - min(xs), max(ys) - min(ys)
