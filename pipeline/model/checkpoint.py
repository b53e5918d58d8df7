"""Checkpoints as folders that PEFT and safetensors read, with their lineage.

A checkpoint holds the adapter (PEFT's own files), ``projectors.safetensors``, ``vocabulary.safetensors``,
``text_embeddings.safetensors``, the tokenizer, ``config.json`` and ``lineage.json``. The frozen language model is not
in it but named by its sha256. Loading one that does not fit fails.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.cad.language.grammar import Grammar
from pipeline.model.cad_mllm import CPU, CadMllmModel
from pipeline.model.checkpoint_folder import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    LINEAGE,
    PROJECTORS,
    TENSOR_FILES,
    TEXT_EMBEDDINGS,
    VOCABULARY,
    CheckpointConfig,
    read_json,
)
from pipeline.model.settings import ModelParams
from pipeline.runtime.atomic import write_text
from pipeline.runtime.device import DTYPES
from pipeline.runtime.errors import UserError
from pipeline.runtime.state_dicts import check_fit, read_safetensors
from pipeline.settings.resolved import model_sha256

TensorFiles = dict[str, dict[str, Tensor]]


def trained_parts(model: CadMllmModel) -> TensorFiles:
    """All that training changes, by file; of a sharded model, shards."""
    return {
        ADAPTER: model.adapter(),
        PROJECTORS: dict(model.projectors.state_dict()),
        VOCABULARY: dict(model.vocabulary()),
        TEXT_EMBEDDINGS: model.text_rows(),
    }


def trained_tensors(model: CadMllmModel) -> TensorFiles:
    """All that training changes, by file; whole tensors on the CPU. All processes must ask at once."""
    return {
        file: {name: whole(tensor).cpu().contiguous() for name, tensor in part.items()}
        for file, part in trained_parts(model).items()
    }


def save_checkpoint(
    folder: Path,
    model: CadMllmModel,
    tensors: TensorFiles,
    combinations: tuple[str, ...],
    llm_sha256: str,
    lineage: dict[str, Any],
) -> None:
    """Write a checkpoint into an existing folder.

    Args:
        tensors: as ``trained_tensors`` gives them.
        combinations: modality combinations that it has been trained for.
        lineage: what it was made from, by sha256.
    """
    model.llm.peft_config["default"].save_pretrained(str(folder))
    adapter_config = read_json(folder / ADAPTER_CONFIG) | {"inference_mode": True}  # as PEFT itself saves it
    adapter_config["target_modules"] = sorted(
        adapter_config["target_modules"]
    )  # a set: its order is a matter of chance
    write_text(folder / ADAPTER_CONFIG, json.dumps(adapter_config, indent=1, sort_keys=True) + "\n")
    for name, part in tensors.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder)
    config = CheckpointConfig.model_validate(
        {
            "format": 2,
            "bits": model.grammar.bits,
            "seed": model.seed,
            "model": model.params,
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == model.dtype),
            "quantization": model.quantization,
            "features": {
                name: {"shape": shape, "details": model.feature_details[name]}
                for name, shape in model.feature_shapes.items()
            },
            "combinations": combinations,
            "llm_sha256": llm_sha256,
        }
    )
    write_text(folder / CONFIG, json.dumps(config.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    write_text(folder / LINEAGE, json.dumps(lineage, indent=1, sort_keys=True) + "\n")


def load_checkpoint(
    folder: Path,
    llm_folder: Path,
    dtype: torch.dtype | None = None,
    params: ModelParams | None = None,
    quantization: str | None = None,
    device: torch.device = CPU,
    kind: type[CadMllmModel] = CadMllmModel,
) -> CadMllmModel:
    """The model of a checkpoint.

    Args:
        llm_folder: the frozen language model that it was trained on.
        dtype, quantization: of the frozen weights; as it was trained where None.
        params: where given, what the checkpoint must have been made with.
        device: where the model is to be.
        kind: what it is made as.

    Raises:
        UserError: it is missing, damaged, or does not fit, and why.
    """
    config = CheckpointConfig.read(folder)
    for part in ("lora", "projectors", "vocabulary"):
        if params is not None and getattr(params, part) != getattr(config.model, part):
            raise UserError(f"{folder} was made with another model.{part}; train its stage again")
    if model_sha256(llm_folder) != config.llm_sha256:
        raise UserError(f"{folder} was trained on another language model than the one in {llm_folder} (sha256 differs)")
    model = kind(
        llm_folder,
        params or config.model,
        Grammar(config.bits),
        config.seed,
        dtype or DTYPES[config.dtype],
        quantization or config.quantization,
        device,
    )
    for modality, features in config.features.items():
        model.add_projector(modality, features.shape, features.details)
    load_trained(model, {name: read_tensors(folder / name) for name in TENSOR_FILES}, folder)
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file of a checkpoint.

    Raises:
        UserError: missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; the checkpoint is not whole")
    return read_safetensors(path)


def load_trained(model: CadMllmModel, files: TensorFiles, place: Path) -> None:
    """Put trained tensors into the model, all of them or an error."""
    if files[TEXT_EMBEDDINGS]:
        model.text_embedding.free(files[TEXT_EMBEDDINGS]["ids"].tolist())
    for name, own in trained_tensors(model).items():
        check_fit(own, files[name], str(place / name), "the model")
        if "ids" in own and not torch.equal(own["ids"], files[name]["ids"]):
            raise UserError(f"{place / name} has rows of other tokens than the model")
    model.load_adapter(files[ADAPTER])
    if files[PROJECTORS]:
        model.projectors.load_state_dict(files[PROJECTORS])
    for key, parameter in model.vocabulary().items():
        parameter.data.copy_(files[VOCABULARY][key])
    if model.text_embedding.rows is not None:
        model.text_embedding.rows.data.copy_(files[TEXT_EMBEDDINGS]["rows"])


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, also where its shards are on several processes; all of them must ask."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # a DTensor, not imported for it
    return full.detach()
