"""Loops around points of a plane that are known to be in or out: a grid's vote, its outline, and what curves it is of.

Where walls were seen the outline is moved onto them; it is then cut into lines and arcs at the least cost, by dynamic
programming over all cuts (as Perez and Vidal 1994, "Optimum polygonal approximation of digitized curves", but with
arcs).
"""

import itertools
from dataclasses import dataclass

import numpy as np

VOTERS = 5  # nearest points that say whether a cell is in
BLURRED = 1.5  # of the noise: smaller cells tell nothing
CELLS = 14_000  # of a grid, at most
NEAR_WALL = 2.0  # cells: how far an outline is moved onto a wall
BESIDE_WALL = 8.0  # cells: how far along the outline a wall is looked for
SEEN, UNSEEN = 0.1, 1.0  # cells: how far off an outline is with a wall beside it, and without
CORRELATED = 0.5  # errors of neighbours are alike: squared, they count less
SMALLEST = 5  # cells in a loop that counts
MOST = 260  # points of an outline that is cut into curves
PRICES = (4.0, 7.0)  # of a line and of an arc, in squared errors
STRAIGHT = 0.05  # radians off an axis that are none
FLATTEST = 0.12  # sweep of an arc that is no line
ROUND = 1.2  # errors: root mean square distance from a circle that is one
FEWEST_OF_ARC = 5  # points
LARGEST = 100.0  # radius


@dataclass(frozen=True, slots=True)
class Curve:
    """A line (``radius`` 0) or an arc of an outline, as it was fitted.

    Attributes:
        at: a point of the line, or the arc's centre; complex, as all points here.
        along: the line's direction; of an arc 1 where it turns left, -1 where it turns right.
        radius: 0 for a line.
    """

    at: complex
    along: complex
    radius: float


@dataclass(frozen=True, slots=True)
class Outlined:
    """A loop.

    Attributes:
        corners: where its curves meet: complex.
        sweeps: of the curve that leaves each; 0 for a line.
        radius: above 0 for a circle, whose centre is the one corner.
        area: signed; negative for a hole.
        outline: the points that it was fitted to.
        cuts: which of these the curves end at: they make a polygon that hardly crosses itself.
    """

    corners: tuple[complex, ...]
    sweeps: tuple[float, ...]
    radius: float
    area: float
    outline: np.ndarray
    cuts: tuple[int, ...]


def outlines(
    feet: np.ndarray, inside: np.ndarray, walls: np.ndarray, noise: float, cells: float = 1.0, coarse: float = 1.0
) -> list[Outlined]:
    """Loops around the points that are inside: outer ones counter-clockwise, holes clockwise.

    Args:
        feet: (N, 2).
        inside: (N,) bool.
        walls: (W, 5) points of the outline that were seen, their normals, outward, and weights.
        noise: of the walls.
        cells: how large the grid's are, in half of the points' spacing; no more of them than ``CELLS``.
        coarse: above 1, curves cost so much more, and there are fewer of them.
    """
    if not inside.any():
        return []
    low, high = feet[inside].min(axis=0), feet[inside].max(axis=0)
    cell = max(cells * _spacing(feet[inside]) / 2, BLURRED * noise, float(np.sqrt(np.prod(high - low) / CELLS)))
    if not cell > 0:  # one point
        return []
    low = low - 1.5 * cell
    shape = np.ceil((high + 1.5 * cell - low) / cell).astype(int)
    field = _field(feet, inside, low, cell, shape)
    found = []
    for traced, outward in _traced(field):
        area = _area(traced)
        if abs(area) >= SMALLEST:
            placed = traced * cell + complex(low[0] + cell / 2, low[1] + cell / 2)
            points, errors = _onto_walls(placed, outward, walls, cell, noise)
            found.append(_cut(points, errors * np.sqrt(coarse), area * cell**2))
    return found


def _spacing(feet: np.ndarray) -> float:
    """Of the points: median distance to the nearest other one."""
    from scipy.spatial import cKDTree

    some = feet[:: max(1, len(feet) // 1000)]
    return float(np.median(cKDTree(feet).query(some, k=2)[0][:, 1])) if len(feet) > 1 else 0.0


def _field(feet: np.ndarray, inside: np.ndarray, low: np.ndarray, cell: float, shape: np.ndarray) -> np.ndarray:
    """(X, Y) votes of the nearest points for each cell, from -1 outside to 1 inside; the rim is outside."""
    from scipy.spatial import cKDTree

    x, y = (low[i] + (np.arange(shape[i]) + 0.5) * cell for i in range(2))
    centres = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    distances, near = cKDTree(feet).query(centres, k=min(VOTERS, len(feet)))
    distances, near = distances.reshape(len(centres), -1), near.reshape(len(centres), -1)
    votes = 1 / (distances + cell / 8) ** 2
    share = (votes * inside[near]).sum(axis=1) / votes.sum(axis=1)
    field: np.ndarray = (2 * share - 1).reshape(shape)
    field[[0, -1], :] = field[:, [0, -1]] = -1.0
    return field


def _traced(field: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Closed outlines of the cells that are in, with these on the left: (M,) points, where 0 is the centre of the first
    cell, and (M,) outward directions."""
    inside = field > 0
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # From each of its four sides, the edge with the cell on the left: its start and end counted in corners of cells.
    sides = (((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (1, 1)), ((0, 1), (1, 1), (0, 1)), ((-1, 0), (0, 1), (0, 0)))
    for (dx, dy), start, end in sides:
        beyond = np.roll(inside, (-dx, -dy), axis=(0, 1))
        for i, j in np.argwhere(inside & ~beyond).tolist():
            following.setdefault((i + start[0], j + start[1]), []).append((i + end[0], j + end[1]))
    loops = []
    while following:
        begin = at = next(iter(following))
        towards = (0, 0)
        edges = []
        while at in following:
            ends = following[at]
            left = (at[0] - towards[1], at[1] + towards[0])  # around the same cell, where two meet at a corner
            chosen = ends.index(left) if len(ends) > 1 and left in ends else 0
            to = ends.pop(chosen)
            if not ends:
                del following[at]
            edges.append((at, to))
            towards, at = (to[0] - at[0], to[1] - at[1]), to
            if at == begin:
                break
        loops.append(_between(field, np.array(edges)))
    return loops


def _between(field: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge (M, 2, 2) the point between the centres of its cells where the votes are even."""
    along = edges[:, 1] - edges[:, 0]
    out = np.stack([along[:, 1], -along[:, 0]], axis=1)
    middle = (edges[:, 0] + edges[:, 1]) / 2 - 0.5  # in centres of cells
    inner, outer = (np.rint(middle - out / 2).astype(int), np.rint(middle + out / 2).astype(int))
    f_in, f_out = field[inner[:, 0], inner[:, 1]], field[outer[:, 0], outer[:, 1]]
    at = inner + out * (f_in / np.maximum(f_in - f_out, 1e-9))[:, None]
    return at[:, 0] + 1j * at[:, 1], out[:, 0] + 1j * out[:, 1]


def _area(points: np.ndarray) -> float:
    return float((points.conj() * np.roll(points, -1)).imag.sum() / 2)


def _onto_walls(
    points: np.ndarray, outward: np.ndarray, walls: np.ndarray, cell: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """An outline moved along the normals of the nearest walls onto them, and (M,) how far off its points may be."""
    from scipy.spatial import cKDTree

    errors = np.full(len(points), max(UNSEEN * cell, noise))
    if not len(walls):
        return points, errors
    smooth = outward + np.roll(outward, 1) + np.roll(outward, -1)
    count = min(4, len(walls))
    distances, near = cKDTree(walls[:, :2]).query(np.stack([points.real, points.imag], axis=1), k=count)
    distances, near = distances.reshape(len(points), -1), near.reshape(len(points), -1)
    at, normals = walls[near, 0] + 1j * walls[near, 1], walls[near, 2] + 1j * walls[near, 3]
    off = ((points[:, None] - at) * normals.conj()).real
    fits = (np.abs(off) < NEAR_WALL * cell) & (distances < BESIDE_WALL * cell)
    fits &= ((normals * smooth[:, None].conj()).real > 0) & ((normals * normals[:, :1].conj()).real > 0.9)
    weights = np.where(fits, walls[near, 4] / (distances + cell / 8) ** 2, 0.0)
    total = weights.sum(axis=1)
    shift = (weights * off * normals).sum(axis=1) / np.maximum(total, 1e-12)
    reached = np.where(fits, distances, np.inf).min(axis=1)
    seen = np.maximum((SEEN + 0.05 * reached / cell) * cell, noise)
    return points - np.where(total > 0, shift, 0), np.where(total > 0, seen, errors)


def _cut(points: np.ndarray, errors: np.ndarray, area: float) -> Outlined:
    """An outline as a circle, or as the lines and arcs that it is made of."""
    centre, radius, residual = _circle(points, errors)
    if residual < ROUND and np.pi * radius**2 < 1.5 * abs(area):
        return Outlined((centre,), (), radius, area, points, ())
    if len(points) > MOST:
        some = np.linspace(0, len(points), MOST, endpoint=False).astype(int)
        points, errors = points[some], errors[some]
    begin = int(np.abs(points - points.mean()).argmax())
    for _ in range(2):  # the first cut of the first time was set, not found
        points, errors = np.roll(points, -begin), np.roll(errors, -begin)
        cuts = _cuts(points, errors)
        begin = cuts[1] % len(points)
    closed, around = np.append(points, points[0]), np.append(errors, errors[0])
    curves = [_curve(closed[a : b + 1], around[a : b + 1]) for a, b in itertools.pairwise(cuts)]
    corners = [_meeting(curves[i - 1], curves[i], points[cuts[i]], around[cuts[i]]) for i in range(len(curves))]
    sweeps = [_sweep(curve, corners[i], corners[(i + 1) % len(corners)]) for i, curve in enumerate(curves)]
    return Outlined(tuple(corners), tuple(sweeps), 0.0, area, points, tuple(cuts[:-1]))


def _circle(points: np.ndarray, errors: np.ndarray) -> tuple[complex, float, float]:
    """Centre and radius of the circle through points by least squares (Kåsa 1976), and how far they are off it.

    Returns:
        Also the root mean square distance, in ``errors``.
    """
    weights = 1 / errors
    middle = (points * weights).sum() / weights.sum()
    local = points - middle
    system = np.stack([local.real, local.imag, np.ones(len(points))], axis=1) * weights[:, None]
    solution, *_ = np.linalg.lstsq(system, np.abs(local) ** 2 * weights, rcond=None)
    centre = complex(solution[0], solution[1]) / 2
    radius = float(np.sqrt(max(solution[2] + abs(centre) ** 2, 1e-18)))
    residual = float(np.sqrt((((np.abs(local - centre) - radius) / errors) ** 2).mean()))
    return centre + middle, radius, residual


def _cuts(points: np.ndarray, errors: np.ndarray) -> list[int]:
    """Where to cut an outline, from 0 to its length, at the least cost of curves and of errors."""
    costs = _costs(points, errors)
    count = len(points)
    best = np.full(count + 1, np.inf)
    best[0], before = 0.0, np.zeros(count + 1, int)
    for end in range(1, count + 1):
        total = best[:end] + costs[:end, end]
        before[end] = int(total.argmin())
        best[end] = total[before[end]]
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(before[cuts[-1]]))
    return cuts[::-1]


def _costs(points: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(M, M + 1) what a curve from one point to another costs, both included: its price, and its squared errors."""
    count = len(points)
    closed = np.append(points, points[0]) - points.mean()
    scale = np.abs(closed).max()
    weights = np.append(errors, errors[0]) ** -2 * CORRELATED
    x, y = closed.real / scale, closed.imag / scale
    z = x * x + y * y
    moments = np.stack([np.ones(count + 1), x, y, x * x, x * y, y * y, x * z, y * z, z * z]) * weights
    sums = np.concatenate([np.zeros((9, 1)), np.cumsum(moments, axis=1)], axis=1)
    n, sx, sy, sxx, sxy, syy, sxz, syz, szz = sums[:, None, 1:] - sums[:, :count, None]
    sizes = np.arange(1, count + 2) - np.arange(count)[:, None]
    n = np.where(sizes > 0, n, 1)
    a, b, c = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
    line = np.maximum((a + c) / 2 - np.sqrt(((a - c) / 2) ** 2 + b * b), 0)
    # Kåsa's circle: z = p x + q y + r, about the mean; its errors are about 2 R times the distances from the circle.
    sz = sxx + syy
    u, v, w = sxz - sx * sz / n, syz - sy * sz / n, szz - sz * sz / n
    determinant = a * c - b * b
    bent = determinant > 1e-12 * n * n
    safe = np.where(bent, determinant, 1)
    p, q = (c * u - b * v) / safe, (a * v - b * u) / safe
    squared_radius = (sz - p * sx - q * sy) / n + (p * p + q * q) / 4
    fits = bent & (sizes >= FEWEST_OF_ARC) & (squared_radius < LARGEST**2)
    arc = np.where(fits, np.maximum(w - p * u - q * v, 0) / np.maximum(4 * squared_radius, 1e-9), np.inf)
    costs: np.ndarray = np.minimum(PRICES[0] + scale**2 * line, PRICES[1] + scale**2 * arc)
    costs[sizes < 2] = np.inf
    return costs


def _curve(points: np.ndarray, errors: np.ndarray) -> Curve:
    """The line or the arc that some points of an outline are of."""
    line = _line(points, errors)
    if len(points) < FEWEST_OF_ARC:
        return line
    centre, radius, residual = _circle(points, errors)
    offs = ((points - line.at) * np.conj(line.along)).imag / errors
    gain = CORRELATED * float((offs**2).sum() - len(points) * residual**2)
    if gain < PRICES[1] - PRICES[0] or abs(points[-1] - points[0]) < FLATTEST * radius / 2 or radius > LARGEST:
        return line
    turn = float(((points[1:] - points[:-1]) * np.conj(points[:-1] - centre)).imag.sum())
    return Curve(centre, complex(np.sign(turn)), radius)


def _line(points: np.ndarray, errors: np.ndarray) -> Curve:
    """The line through some points; along an axis where it nearly is."""
    inner = slice(1, -1) if len(points) > 4 else slice(None)  # its ends may be round a corner already
    weights = errors[inner] ** -2
    at = complex((points[inner] * weights).sum() / weights.sum())
    local = points[inner] - at
    along = complex(np.sqrt(complex((weights * local**2).sum()) or (points[-1] - points[0]) ** 2))
    along /= abs(along) or 1
    if (along * np.conj(points[-1] - points[0])).real < 0:
        along = -along
    for axis in (1, 1j, -1, -1j):
        if abs(np.angle(along / axis)) < STRAIGHT:
            along = complex(axis)
    return Curve(at, along, 0.0)


def _meeting(first: Curve, second: Curve, near: complex, error: float) -> complex:
    """Where two curves meet that follow each other, near a point."""
    reach = 20 * error
    if not first.radius and not second.radius:
        sine = (np.conj(first.along) * second.along).imag
        if abs(sine) > 0.1:
            share = (np.conj(second.at - first.at) * second.along).imag / sine
            found = first.at + share * first.along
            return found if abs(found - near) < reach else near
        return near
    if first.radius and second.radius:
        return near
    line, arc = (second, first) if first.radius else (first, second)
    foot = line.at + ((arc.at - line.at) * np.conj(line.along)).real * line.along
    off = abs(foot - arc.at)
    half = np.sqrt(max(arc.radius**2 - off**2, 0))
    candidates = (foot - half * line.along, foot + half * line.along)
    found = min(candidates, key=lambda each: abs(each - near))
    return complex(found) if abs(found - near) < reach else near


def _sweep(curve: Curve, start: complex, end: complex) -> float:
    """Signed angle by which an arc turns from one point to another; 0 for a line."""
    if not curve.radius:
        return 0.0
    turn = curve.along.real or 1.0
    sweep = float(np.angle((end - curve.at) / (start - curve.at)) * turn % (2 * np.pi))
    # From its middle it is clear whether next to nothing is next to a full turn.
    return turn * sweep if 0.02 < sweep < 2 * np.pi - 0.02 else 0.0
