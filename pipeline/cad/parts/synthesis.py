"""A corpus that the project makes itself: parts that a machinist would recognise, with captions.

Each family draws its dimensions in whole millimetres, builds a program with the operations Omni-CAD knows,
and says in words what a person would. A share of the parts may be of no family (``general``). A model is a function
of (seed, number) alone.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.cad.language.program import CadProgram
from pipeline.cad.parts import captions, prismatic_parts, turned_parts
from pipeline.cad.parts.draft import Draft
from pipeline.cad.parts.general.sequences import extrusions
from pipeline.cad.parts.general.words import draft_of
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import plain_generator

MM = 1e-3
FAMILIES: dict[str, Callable[[random.Random], Draft]] = {
    family.__name__: family
    for family in (
        prismatic_parts.plate,
        turned_parts.washer,
        turned_parts.flange,
        turned_parts.stepped_shaft,
        turned_parts.hex_nut,
        prismatic_parts.l_bracket,
        prismatic_parts.enclosure,
        prismatic_parts.ribbed_base,
        prismatic_parts.channel,
        prismatic_parts.link,
        prismatic_parts.bearing_block,
        turned_parts.rounded_knob,
        prismatic_parts.machined_block,
        prismatic_parts.clevis,
        turned_parts.pulley,
    )
}


@dataclass(frozen=True, slots=True)
class Part:
    """A synthetic model in metres, with its words."""

    program: CadProgram
    caption: str


def check_families(names: Collection[str]) -> None:
    """Raise ``UserError`` where a family does not exist, or none is given."""
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown or not names:
        found = ", ".join(unknown) or "none given"
        raise UserError(f"data.synthetic.families: {found}; there are {', '.join(FAMILIES)}")


def make_part(seed: int, number: int, families: tuple[str, ...], general_share: float = 0.0) -> Part:
    """Model ``number`` of the corpus of ``seed``.

    Args:
        general_share: of the parts are of no family. What the others are does not depend on it.
    """
    if plain_generator(seed, number, "kind").random() < general_share:
        rng = plain_generator(seed, number, "general")
        draft = draft_of(rng, extrusions(rng))
    else:
        rng = plain_generator(seed, number)
        draft = FAMILIES[families[number % len(families)]](rng)
    text = captions.caption(rng, draft.body, draft.features, draft.size_mm)
    millimetres = CadProgram(tuple(draft.extrudes))
    return Part(millimetres.scaled(MM), text)
