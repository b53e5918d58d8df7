"""The section `storage` of params.yaml: no result depends on it, so no pipeline stage names it in its `params`."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.params import Sections
from pipeline.settings.section import Section

LEAST_MIB = 16  # of a cache: what is asked for at once fits in it


class Storage(Section):
    """Where shards lie."""

    shards: str | None = Field(
        default=None, description="where finished tars go, such as s3://bucket/prefix; null: beside their manifest"
    )
    cache_mib: Annotated[int, Field(ge=LEAST_MIB)] = Field(
        default=8192, description="disk that what was read of tars elsewhere takes here at most, in scratch/blocks/"
    )


class StorageSections(Sections):
    """What readers and writers of shards read of params.yaml."""

    storage: Storage = Storage()
