"""The section `codec` of params.yaml."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.section import Section


class Codec(Section):
    """The CAD token vocabulary."""

    bits: Annotated[int, Field(ge=6, le=12)] = Field(description="bits of a quantised value")
    tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        description="share of a solid's volume that rounding may cost before numbers take a second, finer token"
    )
