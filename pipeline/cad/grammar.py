"""The CAD token vocabulary and its grammar as an automaton.

One token per command or value; values share one alphabet of ``2 ** bits`` levels and get their meaning from
their place::

    program  = extrude+ END                      the first extrude is NEW
    extrude  = operation plane position position loop+      lowest and highest place along the normal
    plane    = XY | YZ | ZX | OBLIQUE polar azimuth
    loop     = (RECTANGLE | HOLE_RECTANGLE) x0 y0 x1 y1     opposite corners, low before high
             | (CIRCLE | HOLE_CIRCLE) x y radius
             | (LOOP | HOLE_LOOP) x y edge+ (CLOSE | CLOSE_ARC sweep)
    edge     = position                          parallel to an axis, the other axis than the last such edge
             | LINE x y | ARC x y sweep
    position = value | FAR value                 FAR is an eightfold, coarser range

Holes follow the outer loop that they are in. Closing edges are implied. A plane's coordinates are those of
the normalised frame, so a position means the same in every sketch.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cad.program import Operation

OPERATION_TOKENS = {operation: operation.name for operation in Operation}
PLANES = ("XY", "YZ", "ZX")
OUTER = ("RECTANGLE", "CIRCLE", "LOOP")
HOLES = tuple(f"HOLE_{name}" for name in OUTER)
COMMANDS = (
    "END",
    *OPERATION_TOKENS.values(),
    *PLANES,
    "OBLIQUE",
    *OUTER,
    *HOLES,
    "LINE",
    "ARC",
    "CLOSE",
    "CLOSE_ARC",
    "FAR",
)
TOKEN = {name: number for number, name in enumerate(COMMANDS)}
NUM_COMMANDS = len(COMMANDS)
FAR_FACTOR = 8


class GrammarError(ValueError):
    """A token that the grammar does not allow where it stands."""


@dataclass(frozen=True, slots=True)
class State:
    """Where in the grammar a sequence stands.

    Attributes:
        slot: the name of what comes next, ``loops`` between loops, ``edges`` between the edges of a loop.
        far: a FAR token was read, its value is due.
        known: positions already read that bound the next one, in lattice steps.
        start, at: first and current point of the open loop, in lattice steps.
        horizontal: the next axis-parallel edge moves along the first axis.
        num_edges: edges of the open loop.
        loops: loops of the open extrude.
    """

    slot: str = "operation"
    far: bool = False
    known: tuple[int, ...] = ()
    start: tuple[int, int] = (0, 0)
    at: tuple[int, int] = (0, 0)
    horizontal: bool = True
    num_edges: int = 0
    loops: int = 0
    first: bool = True


POSITION_SLOTS = {
    "low",
    "high",
    "x0",
    "y0",
    "x1",
    "y1",
    "cx",
    "cy",
    "radius",
    "start_x",
    "start_y",
    "line_x",
    "line_y",
    "arc_x",
    "arc_y",
}
NEXT_SLOT = {
    "polar": "azimuth",
    "azimuth": "low",
    "low": "high",
    "high": "loops",
    "x0": "y0",
    "y0": "x1",
    "x1": "y1",
    "y1": "loops",
    "cx": "cy",
    "cy": "radius",
    "radius": "loops",
    "start_x": "start_y",
    "start_y": "edges",
    "line_x": "line_y",
    "line_y": "edges",
    "arc_x": "arc_y",
    "arc_y": "arc_sweep",
    "arc_sweep": "edges",
    "close_sweep": "loops",
}
# Which positions read so far still wait for one above them, the slot's own first.
PENDING_BOUNDS = {"high": slice(-1, None), "y0": slice(0, 1), "x1": slice(0, 2), "y1": slice(1, 2)}
FIRST_SLOT = {"RECTANGLE": "x0", "CIRCLE": "cx", "LOOP": "start_x"}
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
    "cx": 4,
    "cy": 3,
    "radius": 2,
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
    "close_sweep": 2,
    "done": 0,
}
LONGEST_TAIL = 20  # any state can finish within this many tokens


@dataclass(frozen=True)
class Grammar:
    """The automaton for values of ``bits`` bits. States are immutable, so beams can share them."""

    bits: int

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def half(self) -> int:
        return self.levels // 2

    @property
    def size(self) -> int:
        """Number of token ids."""
        return NUM_COMMANDS + self.levels

    def value(self, level: int) -> int:
        """The token id of a value level."""
        return NUM_COMMANDS + level

    def name(self, token: int) -> str:
        """A token as text."""
        return COMMANDS[token] if token < NUM_COMMANDS else str(token - NUM_COMMANDS)

    def steps(self, level: int, far: bool) -> int:
        """A position level in lattice steps from the origin."""
        return (level - self.half) * (FAR_FACTOR if far else 1)

    # -- what may come next ------------------------------------------------------------------------------

    def allowed(self, state: State, remaining: int | None = None) -> np.ndarray:
        """Which tokens may follow: (size,) bool, not to be written to.

        Args:
            state: where the sequence stands.
            remaining: tokens that may still be written, this one included; keeps to what can end in time.
        """
        values, commands = self._allowed_values(state), self._allowed_commands(state)
        if remaining is not None and remaining <= LONGEST_TAIL:
            return self._in_time(state, remaining, values, commands)
        return _mask(self.size, commands, values)

    def _in_time(
        self, state: State, remaining: int, values: tuple[int, int, tuple[int, ...]] | None, commands: frozenset[int]
    ) -> np.ndarray:
        """The mask without those tokens after which the program could not end within ``remaining``."""
        mask = _mask(self.size, commands, values).copy()
        for token in commands:
            if remaining - 1 < self.tail(self.advance(state, token, checked=False)):
                mask[token] = False
        levels = np.flatnonzero(mask[NUM_COMMANDS:])
        if len(levels):
            # Only a low bound at the lattice's rim lengthens the rest: what is above it needs FAR.
            for level in (int(levels[0]), int(levels[-1])):
                if remaining - 1 < self.tail(self.advance(state, self.value(level), checked=False)):
                    rim = level == levels[-1] and level != levels[0]
                    first = next(k for k in levels if self.steps(int(k), state.far) >= self.half - 1) if rim else 0
                    mask[NUM_COMMANDS + first :] = False
                    break
        return mask

    def tail(self, state: State) -> int:
        """Tokens that the shortest end from ``state`` takes."""
        slot, edges = state.slot, state.num_edges
        if slot == "edges":
            pending = int(state.far)  # the value after FAR makes an edge
            return pending + TO_END[("first_edge", "one_edge", "edges")[min(edges + pending, 2)]]
        if slot == "loops" and state.loops == 0:
            return TO_END["first_loop"]
        extra = int(slot in ("line_x", "line_y") and edges == 0)
        if slot in PENDING_BOUNDS:  # above the rim only FAR reaches; where it stands already it is counted
            bounds = state.known[PENDING_BOUNDS[slot]]
            extra += sum(bound >= self.half - 1 for bound in bounds[int(state.far and slot != "y0") :])
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
            return _ids(*OUTER, *HOLES, *OPERATION_TOKENS.values(), "END")
        if state.slot == "edges":
            names = ["LINE", "ARC", "FAR"]
            if state.num_edges >= 1:
                names.append("CLOSE_ARC")
            if state.num_edges >= 2:
                names.append("CLOSE")
            return _ids(*names)
        return _ids("FAR") if state.slot in POSITION_SLOTS else frozenset()

    def _allowed_values(self, state: State) -> tuple[int, int, tuple[int, ...]] | None:
        """Lowest and highest allowed value level and levels to leave out; None where no value fits."""
        top, slot = self.levels - 1, state.slot
        if slot in POSITION_SLOTS or slot == "edges":
            return self._allowed_positions(state, top)
        if slot == "polar":
            return 0, self.half, ()
        if slot == "azimuth":
            return 1, top, ()
        if slot in ("arc_sweep", "close_sweep"):
            return 1, top, (self.half,)
        return None

    def _allowed_positions(self, state: State, top: int) -> tuple[int, int, tuple[int, ...]] | None:
        slot, factor = state.slot, FAR_FACTOR if state.far else 1
        if slot in ("high", "x1", "y1"):  # above the low one read before
            below = state.known[-1 if slot == "high" else -2]
            lowest = max(1, below // factor + 1 + self.half)
            return (lowest, top, ()) if lowest <= top else None
        if slot in ("low", "x0", "y0"):  # something must lie above it
            return 1, top - int(state.far), ()
        if slot == "edges":  # an axis-parallel edge moves, and does not come back to the start
            axis = 0 if state.horizontal else 1
            avoid = [state.at[axis]]
            if state.at[1 - axis] == state.start[1 - axis]:
                avoid.append(state.start[axis])
            return 1, top, self._levels_of(avoid, factor)
        if slot in ("line_y", "arc_y"):
            x = state.known[-1]
            avoid = [p[1] for p in (state.at, state.start) if p[0] == x]
            return 1, top, self._levels_of(avoid, factor)
        return 1, top, ()

    def _levels_of(self, steps: list[int], factor: int) -> tuple[int, ...]:
        return tuple(sorted({s // factor + self.half for s in steps if s % factor == 0}))

    # -- moving on ---------------------------------------------------------------------------------------

    def advance(self, state: State, token: int, checked: bool = True) -> State:
        """The state after ``token``.

        Raises:
            GrammarError: the token is not allowed here.
        """
        if checked and (not 0 <= token < self.size or not self.allowed(state)[token]):
            shown = self.name(token) if 0 <= token < self.size else token
            raise GrammarError(f"{shown} cannot stand where {state.slot} is due")
        if token < NUM_COMMANDS:
            return self._after_command(state, COMMANDS[token])
        level = token - NUM_COMMANDS
        return self._after_value(state, level)

    def _after_command(self, state: State, name: str) -> State:
        if name == "FAR":
            return replace(state, far=True)
        if name == "END":
            return replace(state, slot="done")
        if name in OPERATION_TOKENS.values():
            return State(slot="plane", first=False)
        if name in PLANES:
            return replace(state, slot="low")
        if name == "OBLIQUE":
            return replace(state, slot="polar")
        if name in OUTER or name in HOLES:
            slot = FIRST_SLOT[name.removeprefix("HOLE_")]
            return replace(state, slot=slot, known=(), num_edges=0, horizontal=True, loops=min(state.loops + 1, 1))
        slot = {"LINE": "line_x", "ARC": "arc_x", "CLOSE": "loops", "CLOSE_ARC": "close_sweep"}[name]
        return replace(state, slot=slot, known=())

    def _after_value(self, state: State, level: int) -> State:
        slot = state.slot
        steps = self.steps(level, state.far)
        if slot == "edges":
            at = (steps, state.at[1]) if state.horizontal else (state.at[0], steps)
            return replace(
                state, far=False, at=at, horizontal=not state.horizontal, num_edges=min(state.num_edges + 1, 2)
            )
        known = (*state.known, steps) if slot in POSITION_SLOTS else state.known
        state = replace(state, slot=NEXT_SLOT[slot], far=False, known=known)
        if slot == "start_y":
            return replace(state, start=(known[0], known[1]), at=(known[0], known[1]), known=())
        if slot in ("line_y", "arc_y"):
            # A straight edge followed by CLOSE would run back over itself; an arc and a chord enclose area.
            edges = min(state.num_edges + (1 if slot == "line_y" else 2), 2)
            return replace(state, at=(known[0], known[1]), known=(), num_edges=edges)
        if slot in ("high", "y1", "radius"):
            return replace(state, known=())
        return state


@functools.lru_cache(maxsize=256)
def _ids(*names: str) -> frozenset[int]:
    return frozenset(TOKEN[name] for name in names)


@functools.lru_cache(maxsize=65536)
def _mask(size: int, commands: frozenset[int], values: tuple[int, int, tuple[int, ...]] | None) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[list(commands)] = True
    if values is not None:
        low, high, avoid = values
        mask[NUM_COMMANDS + low : NUM_COMMANDS + high + 1] = True
        for level in avoid:
            if 0 <= level <= high:
                mask[NUM_COMMANDS + level] = False
    mask.setflags(write=False)
    return mask
