"""The grammar of CAD token sequences as an automaton.

One token per command or value; values share one alphabet of ``2 ** bits`` levels and get their meaning from
their place::

    program  = extrude+ END                      the first extrude is NEW
    extrude  = operation plane position position loop+      lowest and highest place along the normal
    plane    = XY | YZ | ZX | OBLIQUE polar azimuth
    loop     = (RECTANGLE | HOLE_RECTANGLE) x0 y0 x1 y1     opposite corners, low before high
             | (CIRCLE | HOLE_CIRCLE) radius (x y)+         one or more of that radius
             | (LOOP | HOLE_LOOP) x y [fillet] edge+ (CLOSE | CLOSE_ARC sweep)
    edge     = position [fillet]                 parallel to an axis, the other axis than the last such edge
             | LINE x y [fillet]
             | ARC x y sweep
    fillet   = FILLET radius | ROUND             of the corner reached, between two lines; ROUND: as the last one
    position = number | FAR value                FAR is an eightfold, coarser range
    number   = value [fine]                      places, radii and angles; fine is a 32nd of a level

Holes follow the outer loop that they are in. Closing edges are implied. A plane's coordinates are those of
the normalised frame, so a position means the same in every sketch. Radii count in halves of a position's step.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.cad.language.tokens import (
    COMMANDS,
    FAR_FACTOR,
    FINE,
    FINE_OFFSETS,
    HOLES,
    NUM_COMMANDS,
    OPERATION_TOKENS,
    OUTER,
    PLANES,
    TOKEN,
    GrammarError,
    Vocabulary,
)


class State(NamedTuple):
    """Where in the grammar a sequence stands. All numbers are in fine steps.

    Attributes:
        slot: the name of what comes next, ``loops`` between loops, ``edges`` between the edges of a loop.
        far: a FAR token was read, its value is due.
        before: where the sequence stood before the level that was just read and may be made finer.
        level: that level's number.
        known: positions already read that bound the next one.
        start, at: first and current point of the open loop.
        horizontal: the next axis-parallel edge moves along the first axis.
        num_edges: edges of the open loop, up to two.
        corner: the current point lies between lines so far and has no fillet.
        round_start: the loop's first corner has a fillet, so it closes with a line.
        must_line: the current corner has a fillet, so a line follows.
        radius_known: a fillet of this loop gave its radius.
        circle: the loop before is a circle, which bare positions repeat.
        loops: loops of the open extrude, up to one.
        first: no extrude was read.
    """

    slot: str = "operation"
    far: bool = False
    before: "State | None" = None
    level: int = 0
    known: tuple[int, ...] = ()
    start: tuple[int, int] = (0, 0)
    at: tuple[int, int] = (0, 0)
    horizontal: bool = True
    num_edges: int = 0
    corner: bool = False
    round_start: bool = False
    must_line: bool = False
    radius_known: bool = False
    circle: bool = False
    loops: int = 0
    first: bool = True


# Slots of numbers that FAR may widen, and those that it may not.
POSITION_SLOTS = frozenset(
    (
        *("low", "high", "x0", "y0", "x1", "y1", "cx", "cy", "start_x", "start_y"),
        *("line_x", "line_y", "arc_x", "arc_y", "radius", "fillet"),
    )
)
NEXT_SLOT = {
    "polar": "azimuth",
    "azimuth": "low",
    "low": "high",
    "high": "loops",
    "x0": "y0",
    "y0": "x1",
    "x1": "y1",
    "y1": "loops",
    "radius": "cx",
    "cx": "cy",
    "cy": "loops",
    "start_x": "start_y",
    "start_y": "edges",
    "line_x": "line_y",
    "line_y": "edges",
    "arc_x": "arc_y",
    "arc_y": "arc_sweep",
    "arc_sweep": "edges",
    "fillet": "edges",
    "close_sweep": "loops",
}
# Which positions read so far still wait for one above them, the slot's own first.
PENDING_BOUNDS = {"high": slice(-1, None), "y0": slice(0, 1), "x1": slice(0, 2), "y1": slice(1, 2)}
FIRST_SLOT = {"RECTANGLE": "x0", "CIRCLE": "radius", "LOOP": "start_x"}
# Tokens from a slot to the end of the shortest program, END included.
TO_END = {
    "operation": 12,
    "plane": 11,
    "polar": 10,
    "azimuth": 9,
    "low": 8,
    "high": 7,
    "first_loop": 6,
    "loops": 1,
    "x0": 5,
    "y0": 4,
    "x1": 3,
    "y1": 2,
    "radius": 4,
    "cx": 3,
    "cy": 2,
    "start_x": 6,
    "start_y": 5,
    "first_edge": 4,
    "one_edge": 3,
    "edges": 2,
    "line_x": 4,
    "line_y": 3,
    "arc_x": 5,
    "arc_y": 4,
    "arc_sweep": 3,
    "fillet": 3,
    "close_sweep": 2,
    "done": 0,
}
LONGEST_TAIL = 24  # any state can finish within this many tokens

Range = tuple[int, int, tuple[int, ...]]  # lowest and highest number in fine steps, and numbers to leave out


@dataclass(frozen=True)
class Grammar(Vocabulary):
    """The automaton over a vocabulary. States are immutable, so beams can share them."""

    # -- what may come next ------------------------------------------------------------------------------

    def allowed(self, state: State, remaining: int | None = None) -> np.ndarray:
        """Which tokens may follow: (size,) bool, not to be written to.

        Args:
            state: where the sequence stands.
            remaining: tokens that may still be written, this one included; keeps to what can end in time.
        """
        fine = self._allowed_fine(state)
        if self._must_refine(state):
            return _mask(self, frozenset(), None, fine)
        commands, values = self._allowed_commands(state), self._allowed_levels(state)
        if remaining is not None and remaining <= LONGEST_TAIL:
            return self._in_time(state, remaining, commands, fine)
        return _mask(self, commands, values, fine)

    def _in_time(self, state: State, remaining: int, commands: frozenset[int], fine: tuple[int, ...]) -> np.ndarray:
        """The mask without those tokens after which the program could not end within ``remaining``."""
        # Levels that need a fine token are left out: there are always others, and FAR beyond the rim.
        mask = _mask(self, commands, self._allowed_levels(state, refine=False), fine).copy()
        for token in (*commands, *(self.fine(offset) for offset in fine)):
            if remaining - 1 < self.tail(self.advance(state, token, checked=False)):
                mask[token] = False
        levels = np.flatnonzero(mask[NUM_COMMANDS : self.first_fine])
        if len(levels):
            # Only a low bound at the lattice's rim lengthens the rest: what is above it needs FAR.
            for level in (int(levels[0]), int(levels[-1])):
                if remaining - 1 < self.tail(self.advance(state, self.value(level), checked=False)):
                    rim = level == levels[-1] and level != levels[0]
                    slot, last = state.slot, (self.half - 1) * FINE
                    first = next(k for k in levels if self.number(slot, int(k), state.far) >= last) if rim else 0
                    mask[NUM_COMMANDS + first : self.first_fine] = False
                    break
        return mask

    def tail(self, state: State) -> int:
        """Tokens that the shortest end from ``state`` takes."""
        slot, edges = state.slot, state.num_edges
        extra = int(self._must_refine(state))
        if slot == "edges":
            pending = int(state.far)  # the value after FAR makes an edge
            return extra + pending + TO_END[("first_edge", "one_edge", "edges")[min(edges + pending, 2)]]
        if slot == "loops" and state.loops == 0:
            return extra + TO_END["first_loop"]
        if slot == "loops" and state.far:  # of a circle repeated
            return TO_END["cx"]
        if slot == "fillet":
            return TO_END["fillet"] + (2, 1, 0)[edges]
        extra += int(slot in ("line_x", "line_y") and edges == 0)
        if slot in PENDING_BOUNDS:  # above the rim only FAR reaches; where it stands already it is counted
            bounds = state.known[PENDING_BOUNDS[slot]]
            rim = (self.half - 1) * FINE
            extra += sum(bound >= rim for bound in bounds[int(state.far and slot != "y0") :])
        return TO_END[slot] + extra

    def _allowed_commands(self, state: State) -> frozenset[int]:
        if state.far:
            return frozenset()
        if state.slot == "operation":
            return _ids("NEW")
        if state.slot == "plane":
            return _ids(*PLANES, "OBLIQUE")
        if state.slot == "loops":
            if state.loops == 0:
                return _ids(*OUTER)
            far = ("FAR",) if state.circle else ()
            return _ids(*OUTER, *HOLES, *OPERATION_TOKENS.values(), "END", *far)
        if state.slot == "edges":
            return self._edge_commands(state)
        return _ids("FAR") if state.slot in POSITION_SLOTS else frozenset()

    def _edge_commands(self, state: State) -> frozenset[int]:
        names = ["LINE", "FAR"]
        if not state.must_line:
            names.append("ARC")
        if state.corner:
            names.append("FILLET")
            if state.radius_known:
                names.append("ROUND")
        if state.num_edges >= 1 and not state.must_line and not state.round_start:
            names.append("CLOSE_ARC")
        if state.num_edges >= 2:
            names.append("CLOSE")
        return _ids(*names)

    def _range(self, state: State) -> Range | None:
        """The numbers that the slot takes; None where no number stands there."""
        slot, rim = state.slot, (self.half - 1) * FINE
        if slot == "polar":
            return 0, self.turn // 4 * FINE, ()
        if slot == "azimuth":
            return 1 - self.turn // 2 * FINE, self.turn // 2 * FINE, ()
        if slot in ("arc_sweep", "close_sweep"):
            return 1 - self.turn * FINE, self.turn * FINE - 1, (0,)
        factor = FAR_FACTOR if state.far else 1
        if slot in ("radius", "fillet"):
            return 1, (self.levels - 1) * FINE * factor, ()
        low, high = -rim * factor, rim * factor
        if slot in ("high", "x1", "y1"):  # above the low one read before
            return max(low, state.known[-1 if slot == "high" else -2] + 1), high, ()
        if slot in ("low", "x0", "y0"):  # something must lie above it
            return low, high - FINE * factor if state.far else high, ()
        if slot == "edges":  # an axis-parallel edge moves, and does not come back to the start
            axis = 0 if state.horizontal else 1
            comes_back = state.at[1 - axis] == state.start[1 - axis]
            return low, high, (state.at[axis], state.start[axis]) if comes_back else (state.at[axis],)
        if slot in ("line_y", "arc_y"):
            x = state.known[-1]
            return low, high, tuple(p[1] for p in (state.at, state.start) if p[0] == x)
        if slot in POSITION_SLOTS or (slot == "loops" and state.circle):
            return low, high, ()
        return None

    def _allowed_levels(self, state: State, refine: bool = True) -> tuple[int, int, tuple[int, ...]] | None:
        """Lowest and highest level and levels to leave out; with ``refine`` also those that need a fine token."""
        numbers = self._range(state)
        if numbers is None:
            return None
        low, high, avoid = numbers
        if low > high:
            return None
        unit = FINE * (FAR_FACTOR if state.far else 1)
        slack = FINE // 2 if refine and not state.far else 0
        zero = self.number(state.slot, 0, state.far)
        lowest = max(0, -(-(low - slack - zero) // unit))
        highest = min(self.levels - 1, (high + slack - zero) // unit)
        if lowest > highest:
            return None
        left_out = () if slack else tuple(sorted({(n - zero) // unit for n in avoid if n % unit == 0}))
        return lowest, highest, left_out

    def _allowed_fine(self, state: State) -> tuple[int, ...]:
        """The offsets that may refine the level just read."""
        numbers = None if state.before is None else self._range(state.before)
        if state.before is None or numbers is None:
            return ()
        level = self.number(state.before.slot, state.level)
        (low, high, avoid), first, last = numbers, level + FINE_OFFSETS[0], level + FINE_OFFSETS[-1]
        if low <= first and last <= high and not avoid:
            return FINE_OFFSETS
        return tuple(offset for offset in FINE_OFFSETS if low <= level + offset <= high and level + offset not in avoid)

    def _must_refine(self, state: State) -> bool:
        """Whether the level just read does not fit as it is."""
        numbers = None if state.before is None else self._range(state.before)
        if state.before is None or numbers is None:
            return state.before is not None
        low, high, avoid = numbers
        level = self.number(state.before.slot, state.level)
        return not low <= level <= high or level in avoid

    # -- moving on ---------------------------------------------------------------------------------------

    def advance(self, state: State, token: int, checked: bool = True) -> State:
        """The state after ``token``.

        Raises:
            GrammarError: the token is not allowed here.
        """
        if checked and (not 0 <= token < self.size or not self.allowed(state)[token]):
            shown = self.name(token) if 0 <= token < self.size else token
            raise GrammarError(f"{shown} cannot stand where {state.slot} is due")
        if token >= self.first_fine:
            assert state.before is not None, "a fine token follows a level"
            number = self.number(state.before.slot, state.level) + self.fine_offset(token)
            return self._after_number(state.before, number)
        state = state._replace(before=None)
        if token < NUM_COMMANDS:
            return self._after_command(state, COMMANDS[token])
        level = token - NUM_COMMANDS
        after = self._after_number(state, self.number(state.slot, level, state.far))
        return after if state.far else after._replace(before=state, level=level)

    def _after_command(self, state: State, name: str) -> State:
        if name == "FAR":
            return state._replace(far=True)
        if name == "END":
            return state._replace(slot="done")
        if name in OPERATION_TOKENS.values():
            return State(slot="plane", first=False)
        if name in PLANES:
            return state._replace(slot="low")
        if name == "OBLIQUE":
            return state._replace(slot="polar")
        if name in OUTER or name in HOLES:
            kind = name.removeprefix("HOLE_")
            return State(slot=FIRST_SLOT[kind], circle=kind == "CIRCLE", loops=1, first=False)
        if name in ("FILLET", "ROUND"):
            at_start = state.num_edges == 0
            state = state._replace(corner=False, must_line=True, round_start=state.round_start or at_start)
            return state._replace(slot="fillet", radius_known=True) if name == "FILLET" else state
        slot = {"LINE": "line_x", "ARC": "arc_x", "CLOSE": "loops", "CLOSE_ARC": "close_sweep"}[name]
        return state._replace(slot=slot, known=())

    def _after_number(self, state: State, number: int) -> State:
        slot = state.slot
        if slot == "edges":
            at = (number, state.at[1]) if state.horizontal else (state.at[0], number)
            return self._after_edge(state._replace(horizontal=not state.horizontal), at, is_line=True)
        if slot == "loops":  # a circle repeated
            return state._replace(slot="cy", far=False, known=(number,))
        known = (*state.known, number) if slot in POSITION_SLOTS else state.known
        state = state._replace(slot=NEXT_SLOT[slot], far=False, known=known)
        if slot == "start_y":
            start = (known[0], known[1])
            return state._replace(start=start, at=start, known=(), corner=True)
        if slot in ("line_y", "arc_y"):
            after = self._after_edge(state, (known[0], known[1]), is_line=slot == "line_y")
            return after._replace(slot=NEXT_SLOT[slot])
        if slot in ("high", "y1", "radius", "cy", "fillet"):
            return state._replace(known=())
        return state

    def _after_edge(self, state: State, at: tuple[int, int], is_line: bool) -> State:
        # A straight edge followed by CLOSE would run back over itself; an arc and a chord enclose area.
        edges = min(state.num_edges + (1 if is_line else 2), 2)
        return state._replace(far=False, at=at, known=(), num_edges=edges, corner=is_line, must_line=False)


@functools.lru_cache(maxsize=256)
def _ids(*names: str) -> frozenset[int]:
    return frozenset(TOKEN[name] for name in names)


@functools.lru_cache(maxsize=65536)
def _mask(
    grammar: Grammar,
    commands: frozenset[int],
    values: tuple[int, int, tuple[int, ...]] | None,
    fine: tuple[int, ...],
) -> np.ndarray:
    mask = np.zeros(grammar.size, bool)
    mask[list(commands)] = True
    if values is not None:
        low, high, avoid = values
        mask[NUM_COMMANDS + low : NUM_COMMANDS + high + 1] = True
        for level in avoid:
            if 0 <= level <= high:
                mask[NUM_COMMANDS + level] = False
    mask[[grammar.fine(offset) for offset in fine]] = True
    mask.setflags(write=False)
    return mask
