"""Of the section `data` of params.yaml, what says where models are read from."""

from typing import Literal

from pydantic import Field

from pipeline.settings.section import Section


class Source(Section, extra="ignore"):
    """Where models come from; the rest of the section is the corpus stage's."""

    source: Literal["synthetic", "omnicad"]
    path: str = Field(
        description="Omni-CAD as published: a folder with json/ and txt/, or Omni-CAD.zip. DVC watches it; a file that "
        "is always there takes its place where no data is read"
    )
