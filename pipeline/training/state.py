"""Resumable states in scratch: all that the rest of a stage depends on, whatever the number of processes."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import TensorFiles, load_trained, read_tensors, whole
from pipeline.model.checkpoint_folder import LOG, TENSOR_FILES
from pipeline.runtime.atomic import atomic_folder
from pipeline.runtime.fingerprint import sha256_file
from pipeline.runtime.scratch import keep as keep_json
from pipeline.runtime.scratch import read_kept
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
        digests = {"tensors": sha256_file(temporary / TENSORS), "log": _sha256_of_log(folder, position.log_bytes)}
        keep_json(temporary / POSITION, {"position": asdict(position), **digests})
    for old in saved_states(folder)[:-keep]:
        shutil.rmtree(old)


def state_folder(folder: Path, step: int) -> Path:
    """Where the state after so many steps is."""
    return folder / f"state-{step:08d}"


def saved_states(folder: Path) -> list[Path]:
    """The states in scratch, oldest first."""
    return sorted(folder.glob("state-*"))


def latest_state(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The last state that is whole, with its part of the log; later ones, which a disk has damaged, are removed.

    Args:
        say: told of each of these.
    """
    for path in reversed(saved_states(folder)):
        if _is_whole(path):
            return path
        say(f"note: {path}, or its part of {LOG}, is damaged; what was saved before it is gone on from")
        shutil.rmtree(path)
    return None


def _is_whole(path: Path) -> bool:
    """Whether a state and its part of the log are what was saved."""
    try:
        known = read_kept(path / POSITION)
        log = _sha256_of_log(path.parent, known["position"]["log_bytes"])
        return (known["tensors"], known["log"]) == (sha256_file(path / TENSORS), log)
    except (FileNotFoundError, ValueError):
        return False


def _sha256_of_log(folder: Path, length: int) -> str:
    """Of the log's first so many bytes; of nothing where it is not there."""
    log = folder / LOG
    return hashlib.sha256(log.read_bytes()[:length] if log.is_file() else b"").hexdigest()


def read_state(
    path: Path, parallel: Parallel | None = None
) -> tuple[Position, TensorFiles, dict[int, dict[str, Tensor]]]:
    """What ``save_state`` wrote: where training was, its tensors, and the optimizer's moments for ``set_moments``.

    Args:
        parallel: where given, the first process reads it for all.
    """

    def position() -> Position:
        return Position(**read_kept(path / POSITION)["position"])

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
