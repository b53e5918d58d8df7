"""Resumable states in scratch: all that the rest of a stage depends on, whatever the number of processes."""

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import TensorFiles, load_trained, read_tensors
from pipeline.model.checkpoint_folder import LOG, TENSOR_FILES
from pipeline.runtime.atomic import atomic_folder
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.runtime.scratch import keep as keep_json
from pipeline.runtime.scratch import read_kept
from pipeline.runtime.state_dicts import damage_told
from pipeline.training.parallel import Parallel

TENSORS, POSITION = "state.safetensors", "position.json"
OPTIMIZER = "optimizer"  # what names of moments begin with


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
    """The optimizer's moments by name; of a sharded model, shards."""
    return {
        f"{OPTIMIZER}/{number}/{key}": value
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def save_state(
    folder: Path,
    position: Position,
    tensors: TensorFiles,
    moments: Mapping[str, Tensor],
    keep: int,
    parallel: Parallel | None = None,
) -> None:
    """Write a state, and keep the last few.

    Args:
        tensors, moments: whole, or shards of which each process writes its own.
        parallel: the processes, all of which must ask at once; the first one writes what is not in shards.

    Raises:
        UserError: not all processes that have shards see the folder.
    """
    flat = {f"{file}/{key}": value for file, part in tensors.items() for key, value in part.items()} | dict(moments)
    is_main, sharded = (True, False) if parallel is None else (parallel.is_main, parallel.sharded)
    if not is_main and not sharded:
        return
    with atomic_folder(state_folder(folder, position.step)) if is_main else nullcontext(folder) as temporary:
        if parallel is not None and sharded:
            _write_shards(parallel.from_main(lambda: temporary), flat, parallel)
        else:
            save_file({name: value.detach().cpu().contiguous() for name, value in flat.items()}, temporary / TENSORS)
        if is_main:
            log = _sha256_of_log(folder, position.log_bytes)
            keep_json(temporary / POSITION, {"position": asdict(position), "files": _digests(temporary), "log": log})
    for old in saved_states(folder)[:-keep] if is_main else ():
        shutil.rmtree(old)


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], parallel: Parallel) -> None:
    """One safetensors file for each process, whose header says which part of each tensor is in it. No pickle."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    _check_seen(folder, parallel)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _own_errors():
        save(dict(tensors), storage_writer=writer, process_group=parallel.control)


def _check_seen(folder: Path, parallel: Parallel) -> None:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not there for process {parallel.rank}: training.distributed fsdp2 saves its state in shards, "
            "so scratch/ has to be a folder that all machines see"
        )


@contextmanager
def _own_errors() -> Iterator[None]:
    """What went wrong, in place of torch's word that something did; every process gets it, whoever failed."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        raise next(fault for fault, _ in error.failures.values()) from error


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


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
        return (known["files"], known["log"]) == (_digests(path), log)
    except (FileNotFoundError, ValueError):
        return False


def _sha256_of_log(folder: Path, length: int) -> str:
    """Of the log's first so many bytes; of nothing where it is not there."""
    log = folder / LOG
    return hashlib.sha256(log.read_bytes()[:length] if log.is_file() else b"").hexdigest()


def read_state(path: Path, parallel: Parallel | None = None) -> tuple[Position, TensorFiles]:
    """Where training was, and its tensors, whole, however they were written.

    Args:
        parallel: where given, the first process reads it for all.
    """
    parts: TensorFiles = {}
    for name, value in _whole(path, parallel, moments=False).items():
        file, _, key = name.partition("/")
        parts.setdefault(file, {})[key] = value

    def position() -> Position:
        return Position(**read_kept(path / POSITION)["position"])

    return position() if parallel is None else parallel.from_main(position), parts


def load_state(path: Path, model: CadMllmModel, parallel: Parallel) -> Position:
    """Put a saved state's weights into the model; where it was."""
    position, files = read_state(path, parallel)
    load_trained(model, {name: files.get(name, {}) for name in TENSOR_FILES}, path)
    return position


def load_moments(path: Path, optimizer: torch.optim.Optimizer, parallel: Parallel | None = None) -> None:
    """Give the optimizer the moments of a saved state; where its parameters are shards, each process reads its own."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def shard(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
        own = parameters[int(name.split("/")[1])]
        return torch.empty_like(own) if own.shape == size else torch.empty(size, dtype=dtype)

    if parallel is not None and parallel.sharded:
        _check_seen(path, parallel)
        found = _read(path, True, shard)
    else:
        found = _whole(path, parallel, moments=True)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        _, number, moment = name.split("/")
        state.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _whole(path: Path, parallel: Parallel | None, moments: bool) -> dict[str, Tensor]:
    """The moments of a state, or all else."""

    def read() -> dict[str, Tensor]:
        if (path / TENSORS).is_file():
            return {name: value for name, value in read_tensors(path / TENSORS).items() if _is_moment(name) == moments}
        return _read(path, moments, lambda _, size, dtype: torch.empty(size, dtype=dtype))

    return read() if parallel is None else parallel.tensors_from_main(read)


def _is_moment(name: str) -> bool:
    return name.startswith(f"{OPTIMIZER}/")


def _read(path: Path, moments: bool, like: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
    """The same from shards; of each tensor the part that ``like`` makes room for.

    Args:
        like: by name, shape and dtype of the whole tensor.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    with damage_told(path), _own_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")  # not there, so it reads alone: as it is asked to
        found = {
            name: like(name, about.size, about.properties.dtype)
            for name, about in reader.read_metadata().state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata) and _is_moment(name) == moments
        }
        load(found, storage_reader=reader, no_dist=True)
    return found
