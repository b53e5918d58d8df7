"""What changes the identity of a piece of work."""

import ast
import sys
from importlib import metadata

import pytest

from pipeline.runtime import fingerprint
from pipeline.runtime.fingerprint import LIBRARIES, PACKAGES, ROOT, libraries, other_versions

# They show, fetch, check, store or measure; none of them computes a result.
WITHOUT_RESULT = {"huggingface_hub", "jinja2", "matplotlib", "psutil", "pydantic", "rich", "ruamel", "safetensors"}
WITHOUT_RESULT |= {"aiohttp", "botocore", "fastapi", "fsspec", "prometheus_client", "ray", "starlette", "typer"}
WITHOUT_RESULT |= {"uvicorn", "wandb"}


def identity():
    return fingerprint.fingerprint("stages.corpus", {"seed": 1}, {"a": "0"})


@pytest.fixture
def versions(monkeypatch):
    """Versions that are pretended."""
    pretended = {}
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: pretended.get(name) or known(name))
    return pretended


def test_work_half_done_is_not_gone_on_with_under_another_version(versions):
    before = identity()
    versions["torch"] = "2.0.0"
    assert identity() == before, "no torch is in the corpus"
    versions["cadquery-ocp-novtk"] = "7.0.0"
    assert identity() != before


def test_the_build_of_a_version_is_left_out(versions):
    versions["torch"] = "2.13.0+cu130"
    assert libraries("stages.train")["torch"] == "2.13.0"


def test_other_versions_are_told():
    now = {"torch": "2.13.0", "peft": "0.21.2", "numpy": "2.4.6"}
    assert other_versions({**now, "gone": "1"}, now) is None
    assert other_versions({}, now) is None, "a checkpoint from before they were kept"
    told = "torch 2.12.0, peft 0.20.0; this is torch 2.13.0, peft 0.21.2"
    assert other_versions({"torch": "2.12.0", "peft": "0.20.0", "numpy": "2.4.6"}, now) == told


def test_imports_are_found_as_they_are_parsed(monkeypatch, tmp_path):
    lines = (
        "import os; import pipeline.x",
        "if True: from pipeline import y",
        "from pipeline.a import b, \\\n    c",
        "from pipeline.a import (b,  # )\n    c)",
        "from pipeline.a import (\n    b,\n    c as d,\n)",
        "def f():\n    import a as b, c.d",
        "from pipeline.a import b as c  # noqa",
        "from pipeline.a import b as c",
    )
    ours = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for number, line in enumerate(lines):
        (path := tmp_path / f"{number}.py").write_text(line)
        ours.append(path)
    for path in ours:
        monkeypatch.setattr(fingerprint, "module_file", lambda _, path=path: path)
        assert set(fingerprint._imports("")) == set(fingerprint._parsed_imports(path.read_text())), path
    assert {"pipeline.a", "pipeline.a.b"} <= set(fingerprint._imports(""))


@pytest.mark.slow
def test_every_library_changes_results_or_does_not():
    """On a failure, put the library into ``LIBRARIES`` if its version can change a result, else among those here."""
    imported = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    roots = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - set(PACKAGES)
    assert roots == LIBRARIES.keys() | WITHOUT_RESULT
    assert LIBRARIES.keys().isdisjoint(WITHOUT_RESULT)
