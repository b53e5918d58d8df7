"""Which programs a network was trained on: their hashes (``pipeline.corpus.duplicates``) in a file beside its weights.

The corpus has such a file too, of its train split.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.errors import UserError
from pipeline.shards.arrays import parse_array

SEEN = "seen_programs.npy"


class SeenPrograms(AbstractSet[str]):
    """A set of hashes, sixteen hex digits each, in 8 bytes each.

    Args:
        numbers: (N,) uint64, sorted, each once.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    @classmethod
    def of(cls, hashes: Iterable[str]) -> Self:
        """The set of these."""
        return cls(np.unique(np.fromiter((int(each, 16) for each in hashes), np.uint64)))

    _from_iterable = of  # type: ignore[assignment]  # what unions are made by

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return (f"{int(number):016x}" for number in self.numbers)

    def __contains__(self, program: object) -> bool:
        number = np.uint64(int(str(program), 16))
        place = np.searchsorted(self.numbers, number)
        return bool(place < len(self) and self.numbers[place] == number)


def write_seen(folder: Path, hashes: Iterable[str]) -> None:
    """Write ``seen_programs.npy``: (N,) uint64, sorted, each once."""
    with atomic_open(folder / SEEN, "wb") as file:
        np.save(file, SeenPrograms.of(hashes).numbers, allow_pickle=False)


def read_seen(folder: Path, written_by: str = "models") -> SeenPrograms:
    """The hashes that ``write_seen`` wrote.

    Args:
        written_by: the command that wrote them.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / SEEN
    try:
        numbers = parse_array(path.read_bytes())
        if numbers.dtype != np.uint64 or numbers.ndim != 1:
            raise ValueError(f"{numbers.dtype} of shape {numbers.shape}")
        return SeenPrograms(numbers)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run `cadmllm {written_by}`, which writes it") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run `cadmllm {written_by}` again") from error
