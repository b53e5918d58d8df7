"""YAML files as DVC reads them; with their comments, where they are to be changed."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.runtime.errors import UserError

MOST_TEXT = 1 << 15  # characters of a file: with comments ruamel takes a second for 20,000
MOST_DEPTH = 100  # of brackets: ruamel's time grows with their square
# What ruamel raises, whatever the damage leads to.
DAMAGE = (YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError, AssertionError)
BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}
MOST_VALUES = 100_000  # with anchors written out


def yaml_parser() -> YAML:
    """YAML 1.2 as DVC reads it (``1e-4`` is a number), keeping comments."""
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def read_yaml(path: Path) -> Any:
    """A YAML file as plain containers, by the parser that DVC reads it with.

    Raises:
        UserError: it is missing or is not YAML.
    """
    with _damage_told(path):
        return _loaded(_text(path), path)


def read_commented(path: Path) -> Any:
    """A YAML file with its comments, to be changed; it takes several times as long. Raises as ``read_yaml``."""
    with _damage_told(path):
        text = _text(path)
        _loaded(text, path)  # tags that ask for objects are no parameters
        return yaml_parser().load(text)


def plain(document: Any, name: str = "params.yaml") -> Any:
    """ruamel's commented containers as plain ones.

    Args:
        name: of the file, for the message.

    Raises:
        UserError: ruamel cannot read what it writes of it.
    """
    stream = StringIO()
    with _damage_told(name):
        yaml_parser().dump(document, stream)
        return _loaded(stream.getvalue(), name)


@contextmanager
def _damage_told(name: Path | str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not here ({Path.cwd()}); run in the project's folder, or choose a preset with "
            "`cadmllm preset use NAME`"
        ) from error
    if len(text) > MOST_TEXT:
        raise UserError(f"{path} has {len(text):,} characters; {MOST_TEXT:,} are read at most")
    if max(itertools.accumulate(BRACKETS.get(mark, 0) for mark in text), default=0) > MOST_DEPTH:
        raise ValueError(f"brackets within more than {MOST_DEPTH} others")
    return text


def _loaded(text: str, name: Path | str) -> Any:
    document = YAML(typ="safe").load(text)
    if _num_values(document, {}) > MOST_VALUES:
        raise UserError(f"{name} names its anchors so often that it would have millions of values")
    return document


def _num_values(document: Any, known: dict[int, float]) -> float:
    """How many values a document has where each is written out; infinite where one is within itself."""
    if not isinstance(document, dict | list):
        return 1
    if id(document) not in known:
        known[id(document)] = math.inf  # as long as it is not done
        children = document.values() if isinstance(document, dict) else document
        known[id(document)] = 1 + sum(_num_values(child, known) for child in children)
    return known[id(document)]
