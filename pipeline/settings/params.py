"""params.yaml: of its sections, each command reads and checks those that it declares."""

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr

from pipeline.runtime.errors import UserError
from pipeline.settings.section import validated
from pipeline.settings.yaml_files import read_yaml

PARAMS_FILE = Path("params.yaml")


class Sections(BaseModel):
    """Some sections of params.yaml. What a pipeline stage does not declare here, no result of it
    can depend on.

    The others are passed over: that all of the file is right, ``cadmllm`` sees before one begins.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: Path = PARAMS_FILE) -> Self:
        """Read and check params.yaml.

        Raises:
            UserError: all faults at once, each with its key.
        """
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, document: Any, name: str) -> Self:
        """Check a parsed document. Raises as ``load``."""
        found = validated(cls, document, name)
        found._document = document
        return found

    @property
    def document(self) -> dict[str, Any]:
        """All of params.yaml as it is written, to be shown: nothing is computed with it."""
        return self._document

    def with_document(self) -> dict[str, Any]:
        """All of params.yaml, to be shown: these sections with their defaults, the others as they are written."""
        return {**self.document, **self.model_dump(mode="json")}


def num_workers() -> int:
    """Processes for CPU work: CADMLLM_WORKERS, or one per usable core. It changes no result, so it is no parameter."""
    return worker_limit() or len(os.sched_getaffinity(0))


def worker_limit() -> int | None:
    """CADMLLM_WORKERS, where it is set."""
    given = os.environ.get("CADMLLM_WORKERS", "")
    if given and not (given.isdigit() and int(given) > 0):
        raise UserError(f"CADMLLM_WORKERS={given!r} is not a positive number")
    return int(given) if given else None
