"""What the sections of params.yaml are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of params.yaml: nothing beyond the keys declared, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
