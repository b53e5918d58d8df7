"""YAML files as DVC reads them, with their comments."""

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.runtime.errors import UserError


def yaml_parser() -> YAML:
    """YAML 1.2 as DVC reads it (``1e-4`` is a number), keeping comments."""
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def read_yaml(path: Path) -> Any:
    """A YAML file with its comments.

    Raises:
        UserError: it is missing or is not YAML.
    """
    try:
        return yaml_parser().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not here ({Path.cwd()}); run in the project's folder, or choose a preset with "
            "`cadmllm preset use NAME`"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def plain(document: Any) -> Any:
    """ruamel's commented containers as plain ones."""
    stream = StringIO()
    yaml_parser().dump(document, stream)
    return YAML(typ="safe", pure=True).load(stream.getvalue())
