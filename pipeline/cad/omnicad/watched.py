"""What DVC sees of a dataset: it follows a link that a pipeline stage depends on, but no link inside of a folder."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.cad.omnicad.raw_files import FOLDERS, inner_links
from pipeline.runtime.errors import UserError
from pipeline.settings.yaml_files import read_yaml

PIPELINE = Path("dvc.yaml")


def unwatched(path: Path, command: str, folders: Sequence[str] = FOLDERS, above: Path | None = None) -> str | None:
    """What to do so that DVC sees changes behind links inside the dataset; None where it does already.

    Args:
        path: the dataset.
        command: that of a pipeline stage, whose ``deps`` may name what the links lead to.
        folders: what it reads of the dataset.
        above: the folder above the dataset that its ``deps`` name, where they do not name the dataset itself.
    """
    links = [*[path] * (path.is_dir() and path.is_symlink()), *inner_links(path, folders)]
    if not links or not PIPELINE.is_file():
        return None
    seen = [(above or path).resolve(), *_deps(command)]
    hidden = [link for link in links if not any(link.resolve().is_relative_to(each) for each in seen)]
    if not hidden:
        return None
    shown, more = ", ".join(f"{link} -> {link.resolve()}" for link in hidden[:4]), len(hidden) - 4
    return (
        f"DVC sees no change behind links inside the dataset ({shown}{f' and {more} more' if more > 0 else ''}): "
        f"add what they lead to to the deps of `{command}` in {PIPELINE}"
    )


def _deps(command: str) -> list[Path]:
    """What is named as it is; none where the user has another pipeline, in which it is called otherwise."""
    try:
        deps = read_yaml(PIPELINE)["stages"][command]["deps"]
        return [Path(dep).resolve() for dep in deps if isinstance(dep, str)]
    except (UserError, LookupError, TypeError):
        return []
