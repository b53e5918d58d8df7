"""What is kept of an evaluation: a line for each answer, in ``generated.jsonl``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def published(lines: Sequence[dict[str, Any]], models: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Lines without their pictures; a model's first has what is the model's own, in ``models`` by key, and its mesh."""
    meshes = {line["key"]: {"true_mesh": line["true_mesh"]} for line in lines if "true_mesh" in line}
    own = {key: found | meshes.get(key, {}) for key, found in models.items()}
    for line in lines:
        others = {field: value for field, value in line.items() if field not in ("picture", "true_mesh")}
        yield others | own.pop(line["key"], {})
