"""Whether triangles meet, decided exactly: floating point where its error bound allows, whole numbers where not.

Faces come as rows of vertex indices; every test is over many pairs at once. Predicates follow Shewchuk 1997
("Adaptive Precision Floating-Point Arithmetic"): the sign of a determinant is trusted beyond a bound on its error, and
coplanar or touching input, of which CAD has plenty, is computed again in integers of any length.

Shapes: P pairs, V vertices.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of the sum of absolute products. Shewchuk's bounds are (7 + 56 u) u and (3 + 16 u) u, u = eps / 2; these are wider.
ERROR_3D = 16 * np.finfo(np.float64).eps
ERROR_2D = 8 * np.finfo(np.float64).eps


class Triangles:
    """Points with exact predicates on their indices.

    Args:
        points: (V, 3) finite float64.
    """

    def __init__(self, points: Array) -> None:
        self.points = points
        mantissas, exponents = np.frexp(points)
        lowest = int(exponents[mantissas != 0].min()) if (mantissas != 0).any() else 0
        whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
        shifts = np.where(mantissas == 0, 0, exponents - lowest).astype(object)
        # All coordinates as whole multiples of one power of two.
        self.whole = whole * 2**shifts if points.size else whole

    def side(self, a: Array, b: Array, c: Array, d: Array) -> Array:
        """(P,) sign of the volume of tetrahedra a, b, c, d: on which side of a plane through a, b, c is d."""
        det, bound = _volume(*(self.points[i] for i in (a, b, c, d)))
        signs = np.sign(det).astype(np.int8)
        unsure = np.flatnonzero((np.abs(det) <= bound) & (bound > 0))
        if len(unsure):
            exact, _ = _volume(*(self.whole[i[unsure]] for i in (a, b, c, d)))
            signs[unsure] = np.sign(exact).astype(np.int8)
        return signs

    def turn(self, axis: Array, a: Array, b: Array, c: Array) -> Array:
        """(P,) sign of the area of a, b, c, seen along an axis each."""
        det, bound = _area(axis, *(self.points[i] for i in (a, b, c)))
        signs = np.sign(det).astype(np.int8)
        unsure = np.flatnonzero((np.abs(det) <= bound) & (bound > 0))
        if len(unsure):
            exact, _ = _area(axis[unsure], *(self.whole[i[unsure]] for i in (a, b, c)))
            signs[unsure] = np.sign(exact).astype(np.int8)
        return signs

    def view(self, a: Array, b: Array, c: Array) -> Array:
        """(P,) an axis along which the triangle a, b, c, which has area, is not a line."""
        axes = [np.full(len(a), axis) for axis in range(3)]
        seen = np.stack([self.turn(axis, a, b, c) != 0 for axis in axes], axis=1)
        return np.asarray(seen.argmax(axis=1))


def _volume(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """Determinant of (a - d, b - d, c - d), rows of points, and how far floating point may be off."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (a - d).T, (b - d).T, (c - d).T
    det = ax * (by * cz - bz * cy) + bx * (cy * az - cz * ay) + cx * (ay * bz - az * by)
    if det.dtype == object:
        return det, det
    ax, ay, az, bx, by, bz, cx, cy, cz = (np.abs(v) for v in (ax, ay, az, bx, by, bz, cx, cy, cz))
    total = ax * (by * cz + bz * cy) + bx * (cy * az + cz * ay) + cx * (ay * bz + az * by)
    return det, ERROR_3D * total


def _area(axis: Array, a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Twice the area of the triangles seen along an axis each, and how far floating point may be off."""
    rows, first, second = np.arange(len(axis)), (axis + 1) % 3, (axis + 2) % 3
    ux, uy = (a - c)[rows, first], (a - c)[rows, second]
    vx, vy = (b - c)[rows, first], (b - c)[rows, second]
    det = ux * vy - uy * vx
    if det.dtype == object:
        return det, det
    return det, ERROR_2D * (np.abs(ux * vy) + np.abs(uy * vx))


def collinear(corners: Array) -> Array:
    """(F,) which triangles, (F, 3, 3), have no area."""
    numbers = Triangles(corners.reshape(-1, 3))
    a, b, c = (np.arange(len(corners)) * 3 + i for i in range(3))
    return np.asarray(np.asarray([numbers.turn(np.full(len(a), axis), a, b, c) == 0 for axis in range(3)]).all(axis=0))


def meet(numbers: Triangles, first: Array, second: Array) -> Array:
    """(P,) whether closed triangles, (P, 3) and (P, 3) vertex indices, have a point in common."""
    beyond = _beyond(numbers, first, second) | _beyond(numbers, second, first)
    found = np.zeros(len(first), bool)
    for one, other in ((first, second), (second, first)):
        for at in range(3):
            open_rows = np.flatnonzero(~beyond & ~found)
            ends = one[open_rows, at], one[open_rows, at - 1]
            found[open_rows] = segment_meets(numbers, *ends, other[open_rows])
    return found


def _beyond(numbers: Triangles, first: Array, second: Array) -> Array:
    """Whether the second triangle lies wholly on one side of the first one's plane."""
    a, b, c = first.T
    sides = np.stack([numbers.side(a, b, c, second[:, i]) for i in range(3)])
    return np.asarray((sides > 0).all(axis=0) | (sides < 0).all(axis=0))


def vertex_meets(numbers: Triangles, first: Array, second: Array) -> Array:
    """(P,) whether triangles with their first vertex in common meet elsewhere too: the side opposite to it reaches
    the other triangle."""
    return segment_meets(numbers, first[:, 1], first[:, 2], second) | segment_meets(
        numbers, second[:, 1], second[:, 2], first
    )


def overlap_across_edge(numbers: Triangles, first: Array, second: Array) -> Array:
    """(P,) whether triangles with a common edge, opposite to the first vertex of each, are folded onto each other."""
    a, b, c = first.T
    coplanar = numbers.side(a, b, c, second[:, 0]) == 0
    axis = numbers.view(a, b, c)
    return np.asarray(coplanar & (numbers.turn(axis, b, c, a) == numbers.turn(axis, b, c, second[:, 0])))


def segment_meets(numbers: Triangles, p: Array, q: Array, faces: Array) -> Array:
    """(P,) whether closed segments p q and closed triangles have a point in common."""
    a, b, c = faces.T
    at_p, at_q = numbers.side(a, b, c, p), numbers.side(a, b, c, q)
    found = np.zeros(len(p), bool)
    through = np.flatnonzero((at_p * at_q <= 0) & ((at_p != 0) | (at_q != 0)))
    sides = np.stack(
        [numbers.side(p[through], q[through], u[through], v[through]) for u, v in ((a, b), (b, c), (c, a))]
    )
    found[through] = (sides >= 0).all(axis=0) | (sides <= 0).all(axis=0)
    within = np.flatnonzero((at_p == 0) & (at_q == 0))
    found[within] = _meets_in_plane(numbers, p[within], q[within], faces[within])
    return found


def _meets_in_plane(numbers: Triangles, p: Array, q: Array, faces: Array) -> Array:
    """``segment_meets`` where all lies in one plane: no line along a side of the triangle or along the segment parts
    them.

    These lines are all that can: the sides of a triangle less a segment are parallel to them (separating axes).
    """
    a, b, c = faces.T
    axis = numbers.view(a, b, c)
    winding = numbers.turn(axis, a, b, c)
    parted = np.zeros(len(p), bool)
    for u, v in ((a, b), (b, c), (c, a)):
        outside = [numbers.turn(axis, u, v, end) * winding < 0 for end in (p, q)]
        parted |= outside[0] & outside[1]
    turns = np.stack([numbers.turn(axis, p, q, corner) for corner in (a, b, c)])
    return ~parted & ~((turns > 0).all(axis=0) | (turns < 0).all(axis=0))
