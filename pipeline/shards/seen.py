"""Which programs a network was trained on: their hashes (``pipeline.corpus.duplicates``) in a file beside its weights.

The corpus has such a file too, of its train split.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.errors import UserError

SEEN = "seen_programs.npy"


def write_seen(folder: Path, hashes: Iterable[str]) -> None:
    """Write ``seen_programs.npy``: (N,) uint64, sorted, each once."""
    numbers = np.unique(np.fromiter((int(each, 16) for each in hashes), np.uint64))
    with atomic_open(folder / SEEN, "wb") as file:
        np.save(file, numbers, allow_pickle=False)


def read_seen(folder: Path, stage: str = "models") -> frozenset[str]:
    """The hashes that ``write_seen`` wrote, sixteen hex digits each.

    Args:
        stage: what wrote them.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / SEEN
    try:
        numbers = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run `cadmllm {stage}`, which writes it") from error
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run `cadmllm {stage}` again") from error
    return frozenset(f"{number:016x}" for number in numbers.tolist())
