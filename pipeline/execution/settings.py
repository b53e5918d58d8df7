"""The section `execution` of params.yaml: who does the work. No result depends on it, and no pipeline stage repeats."""

from typing import Literal

from pydantic import Field

from pipeline.settings.section import Section


class Execution(Section):
    """Who does a pipeline stage's work."""

    backend: Literal["local", "ray"] = Field(
        default="local", description="local: processes of this machine; ray: of all machines of a Ray cluster"
    )
    address: str | None = Field(
        default=None,
        description="of the Ray cluster, host:port or auto; null: this machine alone, for as long as the command runs",
    )


LOCAL = Execution()
