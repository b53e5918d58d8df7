"""What lies in a checkpoint's folder, and whether it is whole: known without loading a tensor."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
PROJECTORS = "projectors.safetensors"
VOCABULARY = "vocabulary.safetensors"
TEXT_EMBEDDINGS = "text_embeddings.safetensors"
TENSOR_FILES = (ADAPTER, PROJECTORS, VOCABULARY, TEXT_EMBEDDINGS)
CONFIG, LINEAGE, LOG, BEST = "config.json", "lineage.json", "log.jsonl", "best"


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing: {path.parent} is not a checkpoint, or its stage has not run") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint whose files are all there.

    Raises:
        UserError: it is missing, damaged or not whole.
    """
    config = read_json(folder / CONFIG)
    if missing := [name for name in (ADAPTER_CONFIG, *TENSOR_FILES) if not (folder / name).is_file()]:
        raise UserError(f"{folder / missing[0]} is missing; the checkpoint is not whole")
    if not isinstance(config, dict) or not {"model", "bits", "features", "combinations", "llm_sha256"} <= config.keys():
        raise UserError(f"{folder / CONFIG} is damaged or of another format")
    return config
