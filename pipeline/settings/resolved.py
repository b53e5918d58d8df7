"""The models that `cadmllm models` has resolved, as the manifest beside them describes them."""

import json
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_folder

MANIFEST = "manifest.json"
PROJECTORS = "projectors"  # in the language model's folder, where it was pretrained with some
ENCODERS = {"image": "image_encoder", "point_cloud": "point_cloud_encoder"}  # of each modality


def read_models(folder: Path) -> dict[str, Any]:
    """The manifest of resolved models.

    Raises:
        UserError: ``cadmllm models`` has not run.
    """
    path = folder / MANIFEST
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is missing or damaged; run `cadmllm models`") from error
    return document


def identity(folder: Path) -> dict[str, Any]:
    """What a manifest keeps of a model's folder: its sha256 and how many bytes that was."""
    return {"sha256": sha256_folder(folder), "bytes": _num_bytes(folder)}


def model_sha256(folder: Path) -> str:
    """The digest of a resolved model, from the manifest beside it: gigabytes are hashed once.

    A folder without one, of another size than it says, or with files newer than it is hashed here.
    """
    try:
        entry = read_models(folder.parent)[folder.name]
        recorded = (folder.parent / MANIFEST).stat().st_mtime_ns
        if entry["bytes"] == _num_bytes(folder) and all(file.stat().st_mtime_ns <= recorded for file in _files(folder)):
            return str(entry["sha256"])
    except (UserError, KeyError, TypeError):
        pass
    return sha256_folder(folder)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))
