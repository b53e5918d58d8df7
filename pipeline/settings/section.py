"""What the sections of params.yaml are made of, and how their faults are told."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.runtime.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of params.yaml: nothing beyond the keys declared, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)


def validated(kind: type[S], document: Any, name: str) -> S:
    """A document that was read from ``name``, checked.

    Raises:
        UserError: all faults at once, each with its key.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                message = "unknown key"
            elif fault["type"] != "missing" and fault["loc"] and not isinstance(fault["input"], dict):
                message += f" (got {fault['input']!r})"
            lines.append(f"  {key}: {message}")
        raise UserError(f"{name} has {len(lines)} fault{'s' * (len(lines) > 1)}:\n" + "\n".join(lines)) from error
