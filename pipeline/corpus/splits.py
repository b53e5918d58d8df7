"""Which split a model belongs to: by its base model, never by its file."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pipeline.corpus.settings import Split
from pipeline.runtime.seeds import uniform


def _draw(base: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return uniform(seed, "split", base)


def drawn_split(base: str, split: Split, seed: int) -> str:
    """The split that a base model is drawn for, where none is published."""
    at = _draw(base, seed)
    return "validation" if at < split.validation else "test" if at < split.validation + split.test else "train"


def assign_splits(
    bases: Iterable[str], split: Split, seed: int, published: Callable[[str], str | None]
) -> Iterator[tuple[str, str]]:
    """The split of each base model, so that its versions and prefixes stay together; of two, the last holds.

    The published test split is kept; validation is drawn from its training part. Without one, both are drawn.
    What is drawn depends on the name alone: more data moves nothing. Only a split that would be empty takes the
    training model that came closest.

    Args:
        bases: each once.
        published: the split of a base model in the published ones; None where it has none.
    """
    counts: Counter[str] = Counter()
    closest: list[tuple[float, str]] = []  # models of the train split, one for each split that may be empty
    for base in bases:
        given, name = published(base), drawn_split(base, split, seed)
        if given in ("test", "validation"):
            name = given
        elif given == "train" and name == "test":
            name = "train"
        counts[name] += 1
        if name == "train":
            closest = heapq.nsmallest(2, [*closest, (_draw(base, seed), base)])
        yield base, name
    for name, fraction in (("validation", split.validation), ("test", split.test)):
        if fraction > 0 and not counts[name] and counts["train"] > 1:
            counts["train"] -= 1
            yield closest.pop(0)[1], name
