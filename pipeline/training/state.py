"""Resumable states in scratch: all that the rest of a stage depends on, whatever the number of processes."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import TensorFiles, load_trained, read_tensors, whole
from pipeline.model.checkpoint_folder import TENSOR_FILES, read_json
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.training.parallel import Parallel, sharded_like

TENSORS, POSITION = "state.safetensors", "position.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where training is; views, order and random numbers follow from it.

    Attributes:
        step: optimizer steps done.
        sums: of the loss, as ``RunningLoss`` keeps them.
        scaler: of the loss scale in float16.
        log_bytes: how long the log was; the history of validation is in it.
    """

    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    log_bytes: int = 0


def collect_moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments in whole tensors. All processes must ask at once."""
    return {
        f"optimizer/{number}/{key}": whole(value).cpu().contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def save_state(
    folder: Path, position: Position, tensors: TensorFiles, moments: Mapping[str, Tensor], keep: int
) -> None:
    """Write a state, and keep the last few."""
    flat = {f"{file}/{key}": value for file, part in tensors.items() for key, value in part.items()}
    with atomic_folder(state_folder(folder, position.step)) as temporary:
        save_file({**flat, **moments}, temporary / TENSORS)
        write_text(temporary / POSITION, json.dumps(asdict(position)))
    for old in saved_states(folder)[:-keep]:
        shutil.rmtree(old)


def state_folder(folder: Path, step: int) -> Path:
    """Where the state after so many steps is."""
    return folder / f"state-{step:08d}"


def saved_states(folder: Path) -> list[Path]:
    """The states in scratch, oldest first."""
    return sorted(folder.glob("state-*"))


def read_state(
    path: Path, parallel: Parallel | None = None
) -> tuple[Position, TensorFiles, dict[int, dict[str, Tensor]]]:
    """What ``save_state`` wrote: where training was, its tensors, and the optimizer's moments for ``set_moments``.

    Args:
        parallel: where given, the first process reads it for all.
    """

    def position() -> Position:
        return Position(**read_json(path / POSITION))

    def tensors() -> dict[str, Tensor]:
        return read_tensors(path / TENSORS)

    if parallel is None:
        return position(), *_by_part(tensors())
    return parallel.from_main(position), *_by_part(parallel.tensors_from_main(tensors))


def _by_part(tensors: Mapping[str, Tensor]) -> tuple[TensorFiles, dict[int, dict[str, Tensor]]]:
    files: TensorFiles = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        file, _, key = name.partition("/")
        if file == "optimizer":
            number, _, moment = key.partition("/")
            moments.setdefault(int(number), {})[moment] = value
        else:
            files.setdefault(file, {})[key] = value
    return files, moments


def load_state(path: Path, model: CadMllmModel, parallel: Parallel) -> tuple[Position, dict[int, dict[str, Tensor]]]:
    """Put a saved state's weights into the model; where it was, and the optimizer's moments for ``set_moments``."""
    position, files, moments = read_state(path, parallel)
    load_trained(model, {name: files.get(name, {}) for name in TENSOR_FILES}, path)
    return position, moments


def set_moments(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
    """Give the optimizer its moments back, cut into shards as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {key: sharded_like(value, parameters[number]) for key, value in found.items()}
        for number, found in moments.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
