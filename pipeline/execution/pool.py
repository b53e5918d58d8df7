"""What all pools of workers have in common: items go in, results come out, whoever works on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 32  # items for each worker beyond the one whose result is due, where results come in order


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task gave no result: a reject's own code, or ``timeout``, ``out_of_memory``, ``crash``."""

    reason: str
    detail: str = ""


class Pool(ABC, Generic[T, R]):
    """Workers for one function. The order and content of results do not depend on how many there are.

    Attributes:
        num_workers: as many items are worked on at a time.
    """

    num_workers: int

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *raised: object) -> None:
        """End the workers."""

    def map(self, items: Iterable[T]) -> Iterator[R | Failure]:
        """Results in the order of ``items``; a failure takes the place of the result it prevented.

        A slow item holds up nobody until ``AHEAD`` others for each worker are finished: results do not fill the memory.
        """
        results: dict[int, R | Failure] = {}
        due = 0

        def may_begin(number: int) -> bool:
            return number < due + AHEAD * self.num_workers

        for number, _, result in self._finished(items, may_begin):
            results[number] = result
            while due in results:
                yield results.pop(due)
                due += 1

    def as_completed(self, items: Iterable[T]) -> Iterator[tuple[T, R | Failure]]:
        """Each item with its result, in the order in which these come: a slow item never holds up others.

        An item is taken when a worker is free for it, no sooner.
        """
        for _, item, result in self._finished(items, lambda _: True):
            yield item, result

    @abstractmethod
    def _finished(self, items: Iterable[T], may_begin: Callable[[int], bool]) -> Iterator[tuple[int, T, R | Failure]]:
        """Position, item and result, as they come; the item at a position is not taken before it may begin."""


class Here(Pool[T, R]):
    """One worker, which is this process.

    Args:
        work: takes an item.
    """

    num_workers = 1

    def __init__(self, work: Callable[[T], R]) -> None:
        self.work = work

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""

    def _finished(self, items: Iterable[T], may_begin: Callable[[int], bool]) -> Iterator[tuple[int, T, R | Failure]]:
        for number, item in enumerate(items):
            assert may_begin(number), "each is finished before the next begins"
            yield number, item, self.work(item)
