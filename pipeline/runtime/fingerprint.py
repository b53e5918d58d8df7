"""The identity of a piece of work: what it reads, with which parameters, by which code and libraries."""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stages")
# An import as it is mostly written. To parse all that a command imports takes half a second, to look for these a tenth.
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)#]*\)|[^\n(;#\\]+)|import[ \t]+([^\n;#\\]+))$", re.MULTILINE
)
WORD = re.compile(r"\bimport\b")

# Libraries whose version can change a result, as they are imported and as they are installed. What only shows, fetches,
# checks or stores (rich, huggingface_hub, pydantic, safetensors …) is not among them.
LIBRARIES = {
    "OCP": ("cadquery-ocp-novtk",),  # which programs make a solid, and its mesh
    "embreex": ("embreex",),  # what a view's rays hit
    "manifold3d": ("manifold3d",),  # common volumes
    "numpy": ("numpy",),  # random streams, the order of sums
    "peft": ("peft",),  # what LoRA adds, and how it begins
    "PIL": ("pillow",),  # decoded and resized pictures
    "scipy": ("scipy",),  # neighbours: normals and distances
    "tokenizers": ("tokenizers",),
    "torch": ("torch",),  # random streams, kernels
    "transformers": ("transformers", "tokenizers"),  # architectures, preprocessing of pictures; ids of captions
    "trimesh": ("trimesh",),  # meshes that are read
    "webdataset": ("webdataset",),  # the bytes of a tar
}


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
    return frozenset(name for name in _imported(module) if module_file(name))


def libraries(module: str, *more: str) -> dict[str, str]:
    """Versions, by name, of the libraries that results of ``module`` depend on: those of ``LIBRARIES`` in its closure.

    Without the label of a build (``+cpu``): work may go on on a machine that has another.

    Args:
        more: names of further ones, which no import shows.
    """
    roots = {name.partition(".")[0] for name in _imported(module)}
    installed = {each for root in roots & LIBRARIES.keys() for each in LIBRARIES[root]}
    return {name: _version(name) for name in sorted({*installed, *more})}


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Which libraries are no longer those of ``before``, in words; None where all are that both name."""
    changed = {name: version for name, version in before.items() if now.get(name, version) != version}
    if not changed:
        return None
    return f"{_listed(changed)}; this is {_listed({name: now[name] for name in changed})}"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _version(name: str) -> str:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:  # another distribution of the same library
        return "unknown"


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """The closure, and all other names that are imported in it."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if module_file(name):
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
    """What one of the project's modules imports; where a line with the word is left, it is parsed."""
    path = module_file(name)
    assert path is not None
    text = path.read_text(encoding="utf-8")
    if WORD.search(IMPORT.sub("", text)):
        return _parsed_imports(text)
    names: list[str] = []
    for module, listed, plain in IMPORT.findall(text):
        found = [each.split()[0] for each in (listed or plain).strip("()").split(",") if each.strip()]
        names += [module, *(f"{module}.{each}" for each in found)] if module else found
    return names


def _parsed_imports(text: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def fingerprint(module: str, params: dict[str, Any], inputs: dict[str, str]) -> str:
    """Sixteen hex digits that change with anything the result depends on.

    Args:
        module: that of the command; its import closure is hashed, and the versions of ``libraries``.
        params: the parameters that it reads.
        inputs: sha256 of each input by name.
    """
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in params.items()
    }
    digest = hashlib.sha256(json.dumps([plain, inputs, libraries(module)], sort_keys=True).encode())
    for name in sorted(import_closure(module)):
        path = module_file(name)
        assert path is not None
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
