"""Projectors that a language model was pretrained with: beside its weights, each for the tokens of one encoder."""

import hashlib
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.encoders.michelangelo import WEIGHTS
from pipeline.runtime.state_dicts import damage_told, read_safetensors
from pipeline.settings.resolved import PROJECTORS

ENCODER = "encoder"  # in a file's metadata: the digest of the weights whose tokens it takes


def weights_digest(folder: Path) -> str:
    """Sha256 of an encoder's weights in half precision: the same whatever precision they are stored in."""
    found = hashlib.sha256()
    for name, tensor in sorted(read_safetensors(folder / WEIGHTS).items()):
        found.update(f"{name} {tuple(tensor.shape)} ".encode() + tensor.half().contiguous().numpy().tobytes())
    return found.hexdigest()


def save_projector(tensors: dict[str, Tensor], llm_folder: Path, modality: str, encoder: Path) -> None:
    """Write a modality's projector beside the language model that it was trained with, for an encoder."""
    folder = llm_folder / PROJECTORS
    folder.mkdir(exist_ok=True)
    values = {name: value.contiguous() for name, value in tensors.items()}
    save_file(values, folder / f"{modality}.safetensors", metadata={ENCODER: weights_digest(encoder)})


def take_projectors(source: Path, llm_folder: Path, encoders: dict[str, Path]) -> list[str]:
    """Copy those of a language model's folder that were trained with these encoders.

    Args:
        encoders: folder of each modality's encoder.

    Returns:
        Their modalities.
    """
    taken = []
    for modality, encoder in encoders.items():
        path = source / PROJECTORS / f"{modality}.safetensors"
        if path.is_file() and (encoder / WEIGHTS).is_file() and _encoder_of(path) == weights_digest(encoder):
            (llm_folder / PROJECTORS).mkdir(exist_ok=True)
            shutil.copyfile(path, llm_folder / PROJECTORS / path.name)
            taken.append(modality)
    return taken


def _encoder_of(path: Path) -> str | None:
    with damage_told(path), safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(ENCODER)
