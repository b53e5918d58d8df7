"""The section `kernel` of params.yaml."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.section import Section


class Kernel(Section):
    """Limits of one model's kernel work, in a process of its own."""

    timeout_s: Annotated[float, Field(gt=0)]
    memory_mib: Annotated[int, Field(ge=256)]
