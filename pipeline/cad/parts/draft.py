"""What a family of synthetic parts makes: extrusions in millimetres, and the words that go with them."""

from dataclasses import dataclass

from pipeline.cad.language.program import Extrude, Operation
from pipeline.cad.parts.captions import count

NEW, JOIN, CUT, INTERSECT = Operation.NEW, Operation.JOIN, Operation.CUT, Operation.INTERSECT


@dataclass(frozen=True, slots=True)
class Draft:
    """One part.

    Attributes:
        body: what it is, as a noun phrase without an article.
        features: what it has, as noun phrases.
        size_mm: of its bounding box along x, y and z; None where it is not said.
    """

    extrudes: list[Extrude]
    body: str
    features: list[str]
    size_mm: tuple[float, float, float] | None = None


def holes_phrase(number: int) -> str:
    """``four circular holes``."""
    return count(number, "circular hole")
