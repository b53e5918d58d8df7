"""Presets: `quickstart` is the whole of params.yaml; every other one lists only what it changes in it."""

from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from pipeline.planning.params import Params
from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.errors import UserError
from pipeline.settings.yaml_files import plain, read_commented, read_yaml, yaml_parser

FOLDER = Path("presets")
BASE = "quickstart"
# These are replaced whole: keys of the base would not fit another source.
REPLACED = {"architecture", "modality_sample_probs", "final_modality_sample_probs"}


def names() -> list[str]:
    """All presets, the default first."""
    found = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if BASE not in found:
        raise UserError(f"{FOLDER / f'{BASE}.yaml'} is not here; run in the project's folder")
    return [BASE, *(name for name in found if name != BASE)]


def overlay(name: str) -> dict[str, Any]:
    """What a preset changes."""
    if name not in names():
        raise UserError(f"no preset {name!r}; there are {', '.join(names())}")
    return {} if name == BASE else dict(read_yaml(FOLDER / f"{name}.yaml"))


def compose(name: str) -> CommentedMap:
    """The whole parameter document of a preset, with the base's comments.

    Raises:
        UserError: the preset does not exist or does not make valid parameters.
    """
    document: CommentedMap = read_commented(FOLDER / f"{BASE}.yaml")
    merge(document, overlay(name), "")
    Params.parse(plain(document), f"preset {name}")
    return document


def merge(document: Any, changes: dict[str, Any], place: str) -> None:
    """Put ``changes`` into ``document`` in place, key by key."""
    for key, value in changes.items():
        # A curriculum of other stages takes the place of the base's.
        other = key == "curriculum" and not value.keys() & document[key].keys()
        if isinstance(value, dict) and key not in REPLACED and not other and isinstance(document.get(key), dict):
            merge(document[key], value, f"{place}{key}.")
        elif isinstance(value, list) and isinstance(document.get(key), list):
            document[key].clear()  # in place: it stays on its line, with its comment
            document[key].extend(value)
        else:
            document[key] = value


def write(document: CommentedMap, path: Path) -> None:
    """Write a parameter document."""
    with atomic_open(path) as file:
        yaml_parser().dump(document, file)


def flatten(document: Any, place: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value and key not in REPLACED:
            flat |= flatten(value, f"{place}{key}.")
        else:
            flat[f"{place}{key}"] = value
    return flat


def own_changes(path: Path) -> list[str]:
    """Keys in which a parameter file differs from the preset that it names; none where it cannot be told."""
    try:
        document = read_yaml(path)
        base, current = flatten(plain(compose(document["preset"]))), flatten(document)
    except (UserError, KeyError, TypeError):
        return []
    return sorted(key for key in base.keys() | current.keys() if base.get(key) != current.get(key))
