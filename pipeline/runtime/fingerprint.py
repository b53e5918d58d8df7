"""The identity of a piece of work: what it reads, with which parameters, by which code."""

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stages")


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """Hex digest over the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


@functools.cache
def import_closure(module: str) -> frozenset[str]:
    """All of the project's modules that ``module`` imports, at any depth and at any time, itself included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or module_file(name) is None:
            continue
        found.add(name)
        parts = name.split(".")
        waiting += [".".join(parts[:i]) for i in range(1, len(parts))]
        waiting += _imports(name)
    return frozenset(found)


def module_file(name: str) -> Path | None:
    """The file of one of the project's modules, or None for anybody else's."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _imports(name: str) -> list[str]:
    path = module_file(name)
    assert path is not None
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def fingerprint(module: str, params: dict[str, Any], inputs: dict[str, str]) -> str:
    """Sixteen hex digits that change with anything the result depends on.

    Args:
        module: the stage's module; its import closure is hashed.
        params: the parameters that the stage reads.
        inputs: sha256 of each input by name.
    """
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in params.items()
    }
    digest = hashlib.sha256(json.dumps([plain, inputs], sort_keys=True).encode())
    for name in sorted(import_closure(module)):
        path = module_file(name)
        assert path is not None
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
