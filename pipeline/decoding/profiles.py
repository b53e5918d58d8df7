"""Simple profiles: which tokens would make a loop cross itself or another, or put a hole outside of its profile.

The grammar knows where a sequence stands; this knows what it has drawn. Points are complex numbers, in fine steps;
arcs and circles are looked at as chords, corners without their fillets.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.cad.language.grammar import State
from pipeline.cad.language.tokens import COMMANDS, FINE, FINE_OFFSETS, HOLES, NUM_COMMANDS, TOKEN, Vocabulary

ARC_CHORDS = 16
CIRCLE = np.exp(2j * np.pi * np.arange(32) / 32)  # points of the unit circle
FOLD = 1e-6  # radians between a path and its way back
GOES_ON = frozenset(("LINE", "ARC", "FILLET", "ROUND", "CLOSE_ARC", "FAR"))  # commands that end no loop and begin none
CLOSING = frozenset(("close_sweep", "y1", "cy"))  # slots whose number closes a loop
DRAWING = CLOSING | {"start_y", "edges", "line_y", "arc_sweep"}  # slots whose number draws


def _no_points() -> np.ndarray:
    return np.zeros(0, complex)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What a sequence has drawn of its last profile.

    Attributes:
        hole: the last loop is a hole.
        sides: of the closed loops, (2, M): where each begins and ends.
        holes: a point of each closed hole.
        path: points of the open loop.
        radius: of the last circle, in fine steps.
        before: the drawing before the level that was just read and may be made finer.
    """

    hole: bool = False
    sides: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), complex))
    holes: np.ndarray = field(default_factory=_no_points)
    path: np.ndarray = field(default_factory=_no_points)
    radius: float = 0.0
    before: "Drawing | None" = None

    def closed(self, loop: np.ndarray) -> "Drawing":
        """With the last loop closed; an outer one begins another profile."""
        sides = np.stack([loop, np.roll(loop, -1)])
        if not self.hole:
            return Drawing(sides=sides, radius=self.radius)
        sides, holes = np.concatenate([self.sides, sides], axis=1), np.append(self.holes, loop[0])
        return Drawing(hole=True, sides=sides, holes=holes, radius=self.radius)


@dataclass(frozen=True)
class SimpleProfiles:
    """Follows a sequence beside the grammar, and leaves out what cannot become a face."""

    vocabulary: Vocabulary

    def advance(self, drawing: Drawing, state: State, token: int) -> Drawing:
        """The drawing after ``token``, which the grammar allows at ``state``."""
        if token < NUM_COMMANDS:
            name = COMMANDS[token]
            if name in GOES_ON:
                return replace(drawing, before=None)
            if name == "CLOSE":
                return drawing.closed(drawing.path)
            return Drawing(hole=True, sides=drawing.sides, holes=drawing.holes) if name in HOLES else Drawing()
        if token >= self.vocabulary.first_fine:
            assert state.before is not None, "a fine token follows a level"
            assert drawing.before is not None
            number = self.vocabulary.number(state.before.slot, state.level) + self.vocabulary.fine_offset(token)
            return self._drawn(drawing.before, state.before, number)
        after = self._drawn(drawing, state, self.vocabulary.number(state.slot, token - NUM_COMMANDS, state.far))
        return after if state.far else replace(after, before=replace(drawing, before=None))

    def restrict(self, mask: np.ndarray, drawing: Drawing, state: State) -> np.ndarray:
        """The grammar's mask without tokens that spoil the profile; as it is where nothing would be left.

        Args:
            mask: (size,) bool, what the grammar allows at ``state``; not written to.
        """
        out, first_fine = mask.copy(), self.vocabulary.first_fine
        if state.before is not None and drawing.before is not None:
            offsets = np.flatnonzero(mask[first_fine:])
            numbers = self.vocabulary.number(state.before.slot, state.level) + np.array(FINE_OFFSETS)[offsets]
            out[first_fine + offsets[self._spoils(drawing.before, state.before, numbers)]] = False
        levels = np.flatnonzero(mask[NUM_COMMANDS:first_fine])
        numbers = self.vocabulary.number(state.slot, levels, state.far)
        out[NUM_COMMANDS + levels[self._spoils(drawing, state, numbers)]] = False
        if mask[TOKEN["CLOSE"]]:
            out[TOKEN["CLOSE"]] = not _crosses(drawing, drawing.path[None, :1], closes=True)[0]
        # FAR leads to numbers that spoil more, and finer is the number before: neither is a way on.
        left = out.copy()
        left[TOKEN["FAR"]] = False
        left[first_fine:] &= not mask[:first_fine].any()
        return out if left.any() else mask

    def _drawn(self, drawing: Drawing, state: State, number: int) -> Drawing:
        """The drawing after a number."""
        if state.slot == "radius":
            return replace(drawing, radius=number / 2, before=None)
        if state.slot not in DRAWING:
            return replace(drawing, before=None)
        path = np.concatenate([drawing.path, self._points(drawing, state, np.array([number]))[0]])
        if state.slot in CLOSING:
            return drawing.closed(path[:-1] if state.slot == "close_sweep" else path)
        return replace(drawing, path=path, before=None)

    def _points(self, drawing: Drawing, state: State, numbers: np.ndarray) -> np.ndarray:
        """The points that each number would draw: (N, K) complex; a whole loop where the number closes one."""
        slot, known = state.slot, state.known
        if slot == "edges":
            x, y = state.at
            return np.asarray(numbers + 1j * y if state.horizontal else x + 1j * numbers)[:, None]
        if slot in ("start_y", "line_y"):
            return np.asarray(known[-1] + 1j * numbers)[:, None]
        if slot == "y1":
            x0, y0, x1 = known
            low = np.full(len(numbers), y0)
            return np.stack([x0 + 1j * low, x1 + 1j * low, x1 + 1j * numbers, x0 + 1j * numbers], axis=1)
        if slot == "cy":
            return np.asarray((known[-1] + 1j * numbers)[:, None] + drawing.radius * CIRCLE)
        begin, end = drawing.path[-1], complex(*(state.start if slot == "close_sweep" else state.at))
        sweeps = np.where(numbers == 0, 1, numbers) * (2 * np.pi / (self.vocabulary.turn * FINE))
        centres = (begin + end) / 2 + 0.5j * (end - begin) / np.tan(sweeps / 2)
        shares = np.arange(1, ARC_CHORDS) / ARC_CHORDS
        arcs = centres[:, None] + (begin - centres)[:, None] * np.exp(1j * sweeps[:, None] * shares)
        return np.concatenate([arcs, np.full((len(numbers), 1), end)], axis=1)

    def _spoils(self, drawing: Drawing, state: State, numbers: np.ndarray) -> np.ndarray:
        """Which numbers spoil the profile: (N,) bool."""
        slot = state.slot
        if slot not in DRAWING or (slot in ("start_y", "y1", "cy") and not drawing.hole):
            return np.zeros(len(numbers), bool)
        begin, end = drawing.sides
        if slot in ("start_y", "cy"):
            x, radius = state.known[-1], drawing.radius if slot == "cy" else 0.0
            reach = (np.minimum(begin.real, end.real) <= x + radius) & (np.maximum(begin.real, end.real) >= x - radius)
            near = _distance(x + 1j * numbers, begin[reach], end[reach]).min(-1, initial=np.inf) <= radius
            return np.asarray(near | ~_inside(x, numbers, begin, end))
        points = self._points(drawing, state, numbers)
        if slot == "y1":
            x, y = state.known[:2]
            misplaced = not _inside(x, np.array([y]), begin, end)[0]
            spoils = _meet(np.roll(points, 1, axis=1), points, begin, end).any((1, 2))
            return np.asarray(misplaced | spoils | _surrounds(points, drawing.holes))
        return _crosses(drawing, points, closes=slot == "close_sweep")


def _crosses(drawing: Drawing, points: np.ndarray, closes: bool) -> np.ndarray:
    """Whether the open loop, gone on through points (N, K), meets itself or another loop, or closes around one."""
    path = drawing.path
    begin = np.concatenate([np.full((len(points), 1), path[-1]), points[:, :-1]], axis=1)
    first, last = (np.concatenate(pair) for pair in ((path[:-1], drawing.sides[0]), (path[1:], drawing.sides[1])))
    meet = _meet(begin, points, first, last)
    if len(path) > 1:  # neighbours share a point: they meet where one goes back along the other
        meet[:, 0, len(path) - 2] = _folds(path[-1] - path[-2], points[:, 0] - path[-1])
        if closes:
            meet[:, -1, 0] = _folds(points[:, -1] - begin[:, -1], path[1] - path[0])
    spoils = meet.any((1, 2))
    if closes and drawing.hole:
        loops = np.concatenate([np.broadcast_to(path, (len(points), len(path))), points], axis=1)
        spoils |= _surrounds(loops, drawing.holes)
    return np.asarray(spoils)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.asarray(u.real * v.imag - u.imag * v.real)


def _folds(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether a path that came along ``u`` goes back along ``v``."""
    along = u.real * v.real + u.imag * v.imag
    return np.asarray((along < 0) & (np.abs(_cross(u, v)) < FOLD * np.abs(along)))


def _meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Whether segments a-b (N, K) meet or touch segments c-d (M,): (N, K, M) bool."""
    a, b = a[..., None], b[..., None]
    meet = np.ones(np.broadcast_shapes(a.shape, c.shape), bool)
    for of in (np.real, np.imag):  # few have boxes that meet
        meet &= np.maximum(of(a), of(b)) >= np.minimum(of(c), of(d))
        meet &= np.minimum(of(a), of(b)) <= np.maximum(of(c), of(d))
    n, k, m = np.nonzero(meet)
    a, b, c, d = a[n, k, 0], b[n, k, 0], c[m], d[m]
    meet[n, k, m] = (_cross(b - a, c - a) * _cross(b - a, d - a) <= 0) & (
        _cross(d - c, a - c) * _cross(d - c, b - c) <= 0
    )
    return meet


def _distance(points: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """How far points (N,) are from segments c-d (M,): (N, M)."""
    along, off = d - c, points[:, None] - c
    share = np.clip((off * along.conjugate()).real / np.maximum(np.abs(along) ** 2, 1e-12), 0, 1)
    return np.asarray(np.abs(off - share * along))


def _inside(x: float, y: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether points of a column, (N,) heights, lie in the profile and in no hole: the parity of the sides above."""
    spans = (begin.real > x) != (end.real > x)
    begin, along = begin[spans], (end - begin)[spans]
    heights = begin.imag + (x - begin.real) * along.imag / along.real
    return np.asarray((heights > y[:, None]).sum(-1) % 2 == 1)


def _surrounds(loops: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Whether loops (N, P) have one of the holes, a point of each, inside."""
    begin, end, at = loops[:, None], np.roll(loops, -1, axis=-1)[:, None], holes[:, None]
    spans = (begin.imag > at.imag) != (end.imag > at.imag)
    right = (_cross(end - begin, at - begin) > 0) == (end.imag > begin.imag)
    return np.asarray(((spans & right).sum(-1) % 2 == 1).any(-1))
