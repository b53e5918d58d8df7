"""The section `models` of params.yaml."""

import re
from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.settings.section import Positive, Section


class Model(Section):
    """Where one set of weights comes from."""

    source: str = Field(
        description="hub:<id> | path:<file or folder> | shipped:<name> (in this package) | "
        "package:<distribution> (a GGUF in an installed package) | "
        "init (random weights of `architecture`, from the seed)"
    )
    revision: str | None = Field(
        None, description="of the hub's repository: a commit, which stays the same, or a branch or tag, which may not"
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="for init: the configuration, transformers' or Michelangelo's names"
    )
    num_heads: Positive | None = Field(None, description="Michelangelo only: heads are not in its weights (width / 64)")

    @model_validator(mode="after")
    def _known_source(self) -> Self:
        kind = self.source.partition(":")[0]
        if kind not in ("hub", "path", "shipped", "package", "init"):
            raise ValueError(f"source {self.source!r} must begin with hub:, path:, shipped: or package:, or be init")
        if kind == "init" and not self.architecture:
            raise ValueError("source init needs an architecture")
        return self

    @property
    def pinned(self) -> bool:
        """Whether it is the same at any time: not what happens to be in a hub's repository."""
        return not self.source.startswith("hub:") or re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None


class Models(Section):
    """The language model and the two frozen encoders."""

    llm: Model
    image_encoder: Model
    point_cloud_encoder: Model
