"""Checkpoints as folders that PEFT and safetensors read, with their lineage, and resumable training states.

A checkpoint holds the adapter (PEFT's own files), ``projectors.safetensors``, ``vocabulary.safetensors``, the
tokenizer, ``config.json``, ``lineage.json`` and the log of its training. The frozen language model is not in it
but named by its sha256. Loading one that does not fit fails.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.atomic import atomic_folder, write_text
from pipeline.cad.grammar import Grammar
from pipeline.errors import UserError
from pipeline.fingerprint import sha256_folder
from pipeline.model.cad_mllm import CadMllm
from pipeline.params import ModelParams
from pipeline.state_dicts import check_fit

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
PROJECTORS = "projectors.safetensors"
VOCABULARY = "vocabulary.safetensors"
CONFIG, LINEAGE, LOG = "config.json", "lineage.json", "log.jsonl"
KEEP_STATES = 2


def trained_tensors(model: CadMllm) -> dict[str, dict[str, Tensor]]:
    """All that training changes, by file: adapter, projectors, vocabulary."""
    return {
        ADAPTER: get_peft_model_state_dict(model.llm, save_embedding_layers=False),
        PROJECTORS: dict(model.projectors.state_dict()),
        VOCABULARY: {name: parameter.data for name, parameter in model.vocabulary().items()},
    }


def save_checkpoint(
    folder: Path, model: CadMllm, combinations: tuple[str, ...], llm_sha256: str, lineage: dict[str, Any]
) -> None:
    """Write a checkpoint into an existing folder.

    Args:
        combinations: modality combinations that it has been trained for.
        lineage: what it was made from, by sha256.
    """
    model.llm.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card, with nothing in it
    adapter_config = read_json(folder / ADAPTER_CONFIG)
    adapter_config["target_modules"] = sorted(
        adapter_config["target_modules"]
    )  # a set: its order is a matter of chance
    write_text(folder / ADAPTER_CONFIG, json.dumps(adapter_config, indent=1, sort_keys=True) + "\n")
    tensors = trained_tensors(model)
    for name in (PROJECTORS, VOCABULARY):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors[name].items()}, folder / name)
    model.tokenizer.save_pretrained(folder)
    config = {
        "format": 1,
        "bits": model.grammar.bits,
        "seed": model.seed,
        "model": model.params.model_dump(mode="json"),
        "features": {
            name: {"shape": list(shape), "details": model.feature_details[name]}
            for name, shape in model.feature_shapes.items()
        },
        "combinations": list(combinations),
        "llm_sha256": llm_sha256,
    }
    write_text(folder / CONFIG, json.dumps(config, indent=1, sort_keys=True) + "\n")
    write_text(folder / LINEAGE, json.dumps(lineage, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {path.parent} is not a checkpoint, or its stage has not run") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def load_checkpoint(folder: Path, llm_folder: Path, dtype: torch.dtype, params: ModelParams | None = None) -> CadMllm:
    """The model of a checkpoint.

    Args:
        llm_folder: the frozen language model that it was trained on.
        params: where given, what the checkpoint must have been made with.

    Raises:
        UserError: it is missing, damaged, or does not fit, and why.
    """
    config = read_json(folder / CONFIG)
    try:
        made_with = ModelParams.model_validate(config["model"])
        grammar = Grammar(int(config["bits"]))
        features = {name: (tuple(entry["shape"]), entry["details"]) for name, entry in config["features"].items()}
        expected_llm, seed = config["llm_sha256"], config["seed"]
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{folder / CONFIG} is damaged or of another format: {error}") from error
    for part in ("lora", "projectors", "vocabulary"):
        if params is not None and getattr(params, part) != getattr(made_with, part):
            raise UserError(f"{folder} was made with another model.{part}; train its stage again")
    if sha256_folder(llm_folder) != expected_llm:
        raise UserError(f"{folder} was trained on another language model than the one in {llm_folder} (sha256 differs)")
    model = CadMllm(llm_folder, params or made_with, grammar, seed, dtype)
    for modality, (shape, details) in features.items():
        model.add_projector(modality, shape, details)
    load_trained(model, {name: _read_tensors(folder / name) for name in (ADAPTER, PROJECTORS, VOCABULARY)}, folder)
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing; the checkpoint is not whole")
    try:
        loaded: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors raises its own, unexported kind
        raise UserError(f"{path} is damaged: {error}") from error
    return loaded


def load_trained(model: CadMllm, files: dict[str, dict[str, Tensor]], place: Path) -> None:
    """Put trained tensors into the model, all of them or an error."""
    for name, own in trained_tensors(model).items():
        check_fit(own, files[name], str(place / name), "the model")
    set_peft_model_state_dict(model.llm, files[ADAPTER])
    if files[PROJECTORS]:
        model.projectors.load_state_dict(files[PROJECTORS])
    for key, parameter in model.vocabulary().items():
        parameter.data.copy_(files[VOCABULARY][key])


# -- resumable states -----------------------------------------------------------------------------------------


def save_state(
    folder: Path, step: int, model: CadMllm, optimizer: torch.optim.Optimizer, sums: dict[str, list[float]]
) -> None:
    """Keep all that the rest of the stage depends on as ``state-<step>``, and the last few of them."""
    tensors = {f"{file}/{key}": value for file, part in trained_tensors(model).items() for key, value in part.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": value for key, value in state.items()}
    with atomic_folder(folder / f"state-{step:08d}") as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary / "state.safetensors"
        )
        write_text(temporary / "sums.json", json.dumps(sums))
    for old in saved_states(folder)[:-KEEP_STATES]:
        shutil.rmtree(old)


def saved_states(folder: Path) -> list[Path]:
    """The states in scratch, oldest first."""
    return sorted(folder.glob("state-*"))


def load_state(path: Path, model: CadMllm, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, list[float]]]:
    """Put a saved state back; the number of steps it has done, and the running sums of the loss."""
    files: dict[str, dict[str, Tensor]] = {ADAPTER: {}, PROJECTORS: {}, VOCABULARY: {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _read_tensors(path / "state.safetensors").items():
        file, _, key = name.partition("/")
        if file == "optimizer":
            number, _, moment = key.partition("/")
            moments.setdefault(int(number), {})[moment] = value
        else:
            files[file][key] = value
    load_trained(model, files, path)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(path.name.removeprefix("state-")), read_json(path / "sums.json")
