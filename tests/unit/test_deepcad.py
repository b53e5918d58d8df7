"""Our programs and DeepCAD's vectors of the same files describe the same curves and extrusions.

The vectors come from DeepCAD's own code (Wu et al. 2021): 256 levels, each profile an extrusion of its own, scaled by
the file's stated box, sketches by their own size. Planes are not compared: DeepCAD's angles are wrong in some files.
"""

import json
import math

import numpy as np
import pytest

from pipeline.cad.language.program import Arc, Circle, ExtentKind, Line, Operation
from pipeline.cad.omnicad import documents
from tests.conftest import shared

LINE, ARC, CIRCLE, EOS, SOL, EXTRUDE = range(6)
OPERATIONS = (Operation.NEW, Operation.JOIN, Operation.CUT, Operation.INTERSECT)
KINDS = (ExtentKind.ONE_SIDED, ExtentKind.SYMMETRIC, ExtentKind.TWO_SIDED)
HALF_CELLS = 256 / 2 * 0.75 - 1  # cells from a sketch's start to its furthest side
CELL = 2 / 256  # of positions, sizes and distances in the unit cube
MODEL_HALF = 0.75
ROUNDING = 0.5 * CELL + 1e-6


def read_vectors(rows):
    """Profiles as DeepCAD writes them: loops of (kind, end in cells from the start, row), and the extrusion's row."""
    profiles, loops = [], []
    for row in rows:
        command, (x, y) = int(row[0]), (row[1] - 128, row[2] - 128)
        if command == SOL:
            loops.append([])
        elif command in (LINE, ARC, CIRCLE):
            loops[-1].append((command, (float(x), float(y)), row))
        elif command == EXTRUDE:
            profiles.append((loops, row))
            loops = []
        else:
            return profiles
    raise AssertionError("no end")


def their_curves(loops, size):
    """(kind, numbers, turn): the ends of a line or arc, centre and radius of a circle; by how much an arc turns."""
    cell = size / HALF_CELLS
    for loop in loops:
        ends = [point for _, point, _ in loop]
        for i, (kind, end, row) in enumerate(loop):
            if kind == CIRCLE:
                yield Circle, np.array([*end, row[5]]) * cell, 0.0
            else:
                start = ends[i - 1]
                turn = row[3] * 2 * math.pi / 256 if kind == ARC else 0.0
                yield (Line if kind == LINE else Arc), np.array([*start, *end]) * cell, turn


def our_curves(profile, scale, start):
    for loop in profile.loops:
        for curve in loop.curves:
            if isinstance(curve, Circle):
                x, y = curve.centre
                yield Circle, np.array([x - start[0], y - start[1], curve.radius]) * scale, 0.0
            else:
                (x0, y0), (x1, y1) = curve.start, curve.end
                turn = abs(curve.sweep) if isinstance(curve, Arc) else 0.0
                yield type(curve), np.array([x0 - start[0], y0 - start[1], x1 - start[0], y1 - start[1]]) * scale, turn


def distance(ours, theirs):
    (kind, a, turn), (other, b, other_turn) = ours, theirs
    if kind is not other or abs(turn - other_turn) > math.pi / 256 + 1e-6:
        return math.inf
    if kind is Circle:
        return np.abs(a - b).max()
    return min(np.abs(a - b).max(), np.abs(a - np.roll(b, 2)).max())  # edges are listed in either direction


def test_the_same_curves_and_extrusions():
    vectors, models = np.load(shared("fixtures/deepcad_vec.npz"), allow_pickle=False), shared("omnicad/json")
    compared = 0
    for key in vectors.files:
        name = key.replace("__", "/", 1)
        document = json.loads((models / f"{name}.json").read_bytes())
        box = document["properties"]["bounding_box"]
        scale = MODEL_HALF / max(abs(box[end][axis]) for end in ("min_point", "max_point") for axis in "xyz")
        program = documents.from_document(document)
        ours = [
            (extrude, sketch, profile)
            for extrude in program.extrudes
            for sketch in extrude.sketches
            for profile in sketch.profiles
        ]
        theirs = read_vectors(vectors[key])
        assert len(ours) == len(theirs), name
        for (extrude, sketch, profile), (loops, row) in zip(ours, theirs, strict=True):
            size = row[12] * CELL
            # The vector's sketch starts at a corner of its own choice, whose place in space it gives.
            position = row[9:12] * CELL - 1
            candidates = [
                point
                for loop in profile.loops
                for point in starts(loop)
                if np.abs(clipped(np.array(sketch.plane.to_world(point)) * scale) - position).max() <= ROUNDING
            ]
            # Half a cell of the sketch and what the size's own rounding moves, at the far side.
            tolerance = 0.5 * size / HALF_CELLS + 0.5 * CELL * 1.05 + 1e-6
            left = list(their_curves(loops, size))
            if row[12] < 255:  # else DeepCAD has cut the sketch's size down to its cube's
                assert any(same(list(our_curves(profile, scale, at)), left, tolerance) for at in candidates), name
                compared += 1
            # Further profiles of a new body are joined to the first, which makes the same solid.
            further = extrude.operation is Operation.NEW and profile is not extrude.sketches[0].profiles[0]
            assert OPERATIONS[row[15]] is (Operation.JOIN if further else extrude.operation), name
            assert KINDS[row[16]] is extrude.extent.kind, name
            assert row[13] * CELL - 1 == pytest.approx(clipped(extrude.extent.one * scale), abs=ROUNDING), name
            if extrude.extent.kind is ExtentKind.TWO_SIDED:
                assert row[14] * CELL - 1 == pytest.approx(
                    clipped(extrude.extent.two * scale), abs=0.5 * CELL + 1e-6
                ), name
    assert compared > 200


def same(ours, theirs, tolerance):
    """Whether each of our curves is one of theirs, and none is left."""
    left = list(theirs)
    for curve in ours:
        best = min(range(len(left)), key=lambda i: distance(curve, left[i]), default=None)
        if best is None or distance(curve, left[best]) > tolerance:
            return False
        del left[best]
    return not left


def clipped(places):
    """DeepCAD keeps to its cube."""
    return np.clip(places, -1.0, 1 - CELL)


def starts(loop):
    """Where DeepCAD may let a loop start."""
    first = loop.curves[0]
    if isinstance(first, Circle):
        return [(first.centre[0] - first.radius, first.centre[1])]
    return [edge.start for edge in loop.edges]
