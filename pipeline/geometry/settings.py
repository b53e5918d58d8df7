"""The section `geometry` of params.yaml."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.section import Section


class Geometry(Section):
    """What is drawn from each solid."""

    num_points: Annotated[int, Field(ge=16)] = Field(description="surface points with normals")
    num_views: Annotated[int, Field(ge=1, le=8)]
    image_size: Annotated[int, Field(ge=32, le=1024)] = Field(description="pixels along a side")
    num_queries: Annotated[int, Field(ge=0)] = Field(
        0, description="points in space that know whether they are inside: what pretraining a shape encoder needs"
    )
