"""The CAD token vocabulary: commands, value levels, and fine offsets that refine a level."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.cad.language.program import Operation

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
    "FILLET",
    "ROUND",
    "CLOSE",
    "CLOSE_ARC",
    "FAR",
)
TOKEN = {name: number for number, name in enumerate(COMMANDS)}
NUM_COMMANDS = len(COMMANDS)
FAR_FACTOR = 8
FINE = 32  # fine steps in a level
# Offsets from a level, in fine steps; both halves are there, so that mirrored numbers look alike.
FINE_OFFSETS = tuple(offset for offset in range(-FINE // 2, FINE // 2 + 1) if offset)

Level = TypeVar("Level", int, np.ndarray)


class GrammarError(ValueError):
    """A token that the grammar does not allow where it stands."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens for values of ``bits`` bits."""

    bits: int

    @property
    def levels(self) -> int:
        """How many tokens there are for values."""
        return 1 << self.bits

    @property
    def half(self) -> int:
        """Levels on one side of zero."""
        return self.levels // 2

    @property
    def turn(self) -> int:
        """Levels in a full turn; 15 degrees are a whole number of them at any ``bits``."""
        return 3 << (self.bits - 3)

    @property
    def first_fine(self) -> int:
        """The id of the first fine token."""
        return NUM_COMMANDS + self.levels

    @property
    def size(self) -> int:
        """Number of token ids: commands, values, fine offsets."""
        return self.first_fine + len(FINE_OFFSETS)

    def value(self, level: int) -> int:
        """The token id of a value level."""
        return NUM_COMMANDS + level

    def fine(self, offset: int) -> int:
        """The token id of an offset in fine steps."""
        return self.first_fine + FINE_OFFSETS.index(offset)

    def fine_offset(self, token: int) -> int:
        """The offset that a fine token says, 0 for any other token."""
        return FINE_OFFSETS[token - self.first_fine] if token >= self.first_fine else 0

    def name(self, token: int) -> str:
        """A token as text."""
        if token < NUM_COMMANDS:
            return COMMANDS[token]
        return str(token - NUM_COMMANDS) if token < self.first_fine else f"{self.fine_offset(token):+d}"

    def starts_extrude(self, token: int) -> bool:
        """Whether a token is an operation."""
        return token < NUM_COMMANDS and COMMANDS[token] in OPERATION_TOKENS.values()

    def token(self, name: str) -> int:
        """The id of a token written by ``name``.

        Raises:
            GrammarError: there is no such token.
        """
        if name in TOKEN:
            return TOKEN[name]
        try:
            number = int(name)
            token = self.fine(number) if name[0] in "+-" else self.value(number)
        except ValueError:
            raise GrammarError(f"{name!r:.40} is no token") from None
        if not NUM_COMMANDS <= token < self.size or (name[0] not in "+-" and number >= self.levels):
            raise GrammarError(f"{name!r:.40} is beyond {self.bits} bits")
        return token

    def number(self, slot: str, level: Level, far: bool = False) -> Level:
        """What levels mean in a slot, in fine steps: places and turns are signed, radii and polar angles are not."""
        if slot in ("radius", "fillet", "polar"):
            return level * FINE * (FAR_FACTOR if far else 1)
        return (level - self.half) * FINE * (FAR_FACTOR if far else 1)
