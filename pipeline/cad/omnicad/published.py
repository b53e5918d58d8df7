"""The published split, name by name: Python's own reader would have all of 450,000 names in memory, 36 MiB."""

import json
import re
from collections.abc import Iterator
from typing import Any

SPLIT_FILE = "raw_train_test_split.json"
SPLITS = ("train", "validation", "test")
BLANKS = re.compile(r"[ \t\n\r]*")


def read_split(data: bytes) -> Iterator[tuple[str, str]]:
    """Base models, each with ``train``, ``validation`` or ``test``; of one that is named twice, the last holds.

    Args:
        data: of the file: ``{"train": [name, …], "test": [name, …]}``. Other keys are passed over.

    Raises:
        ValueError: it is damaged, or no such object.
    """
    text = data.decode(json.detect_encoding(data))
    for split in SPLITS:
        for key, name in _listed(text):
            if key == split:
                yield str(name), split


def _listed(text: str) -> Iterator[tuple[str, Any]]:
    """What the lists of a JSON object hold, item by item, each with its list's key."""
    found = _Text(text)
    for _ in found.items("{", "}"):
        key = found.value()
        found.past(":")
        if found.next() == "[":
            for _ in found.items("[", "]"):
                yield key, found.value()
        elif key in SPLITS:
            raise ValueError(f"{key} is not a list")
        else:
            found.value()
    if found.next():
        raise ValueError(f"its end is expected at character {found.at}")


class _Text:
    """JSON that is gone through once; ``at`` is how far."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self._decode = text, 0, json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is not blank; nothing at the end."""
        blanks = BLANKS.match(self.text, self.at)
        assert blanks, "none are some too"
        self.at = blanks.end()
        return self.text[self.at : self.at + 1]

    def past(self, *marks: str) -> str:
        """The next character, which is one of these, and now behind."""
        mark = self.next()
        if mark not in marks:
            raise ValueError(f"{' or '.join(marks)} is expected at character {self.at}")
        self.at += 1
        return mark

    def value(self) -> Any:
        """The next value, which is now behind."""
        self.next()
        value, self.at = self._decode(self.text, self.at)
        return value

    def items(self, begin: str, end: str) -> Iterator[None]:
        """Stop before each of the items between two marks; the caller goes past it."""
        self.past(begin)
        if self.next() == end:
            self.past(end)
            return
        yield
        while self.past(",", end) == ",":
            yield
