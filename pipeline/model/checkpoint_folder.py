"""What lies in a checkpoint's folder, and whether it is whole: known without loading a tensor."""

import json
from pathlib import Path
from typing import Any, Literal

from pipeline.model.settings import ModelParams
from pipeline.runtime.errors import UserError
from pipeline.settings.computing import Dtype, Quantization
from pipeline.settings.places import MODELS
from pipeline.settings.resolved import MANIFEST
from pipeline.settings.section import Section, validated

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
        raise UserError(f"{path} is missing: {path.parent} is not a checkpoint, or its stage is not trained") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


class FeatureConfig(Section):
    """Of one sample's features: their shape, and how they were made."""

    shape: tuple[int, ...]
    details: dict[str, Any]


class CheckpointConfig(Section):
    """``config.json``: all that it takes to build the model again, besides tensors.

    Attributes:
        dtype, quantization: of the frozen weights that it was trained on; it is loaded so.
        combinations: of modalities that it has been trained for.
    """

    format: Literal[2]
    bits: int
    seed: int
    model: ModelParams
    dtype: Dtype
    quantization: Quantization
    features: dict[str, FeatureConfig]
    combinations: tuple[str, ...]
    llm_sha256: str

    @property
    def weights(self) -> str:
        """The frozen weights in words."""
        return self.dtype if self.quantization == "none" else f"{self.quantization}, computed in {self.dtype}"

    @classmethod
    def read(cls, folder: Path) -> "CheckpointConfig":
        """That of a checkpoint.

        Raises:
            UserError: it is missing, damaged, or of another format; each key that is wrong is named.
        """
        document = read_json(folder / CONFIG)
        if isinstance(document, dict) and document.get("format") == 1:
            raise UserError(
                f"{folder / CONFIG} is of format 1, which does not say what the frozen weights were. Train its stage "
                'again, or write into it, as training had them: "format": 2, "dtype": "float32", "quantization": "none"'
            )
        return validated(cls, document, str(folder / CONFIG))


def models_of(folder: Path) -> Path:
    """The resolved models of a checkpoint: in it, where it was exported, else its project's, else those here."""
    places = (folder / MODELS, folder.parent.parent / MODELS)
    return next((place for place in places if (place / MANIFEST).is_file()), MODELS)


def check_checkpoint(folder: Path) -> CheckpointConfig:
    """The configuration of a checkpoint whose files are all there.

    Raises:
        UserError: it is missing, damaged or not whole.
    """
    config = CheckpointConfig.read(folder)
    if missing := [name for name in (ADAPTER_CONFIG, *TENSOR_FILES) if not (folder / name).is_file()]:
        raise UserError(f"{folder / missing[0]} is missing; the checkpoint is not whole")
    return config
