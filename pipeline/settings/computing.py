"""What networks compute on and in: of the section `training` of params.yaml, what more rooms than training's know."""

from typing import Literal

from pydantic import Field

from pipeline.settings.section import Section

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]


class Device(Section, extra="ignore"):
    """What all networks run on; the rest of the section is training's."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: CUDA where there is one")
