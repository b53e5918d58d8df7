"""The design's invariants: imports, dvc.yaml, the command line."""

import ast
import functools
import operator
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.runtime.fingerprint import import_closure, module_file
from stages.cli import app

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "models",
    "corpus",
    "geometry",
    "features",
    "train",
    "evaluate",
    "robustness",
    "retrieval",
    "transfer",
    "report",
)


def test_imports_run_one_way():
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def code_deps(stage):
    entry = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return [dep for dep in entry.get("do", entry)["deps"] if dep.startswith(("pipeline/", "stages/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports(stage):
    """DVC does not follow imports. On a failure, put the listed files' rooms into (or out of) the stage's deps."""
    imported = {module_file(name).relative_to(ROOT).as_posix() for name in import_closure(f"stages.{stage}")}
    within = {dep: {file for file in imported if file == dep or file.startswith(f"{dep}/")} for dep in code_deps(stage)}
    left = imported - set().union(*within.values())
    assert {file for file in left if not only_a_docstring(file)} == set(), "missing"
    assert [dep for dep, files in within.items() if not files and not dep.startswith("pipeline/shipped/")] == [], (
        "surplus"
    )


def only_a_docstring(file):
    return len(ast.parse((ROOT / file).read_text()).body) == 1 and file.endswith("__init__.py")


def test_the_code_is_in_rooms_of_a_dozen():
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]
    rooms = Counter(path.parent for path in (ROOT / "pipeline").rglob("*.py") if path.name != "__init__.py")
    assert {room.name: number for room, number in rooms.items() if number > 12} == {}


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def public_names(body, prefix=""):
    """Functions, classes and their methods that have no underscore before them, as syntax trees by their names."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body, f"{node.name}.")


def test_every_public_name_has_a_docstring():
    names = [
        (f"{file}: {name}", ast.get_docstring(node))
        for file, text in sources("pipeline", "stages", "benchmarks")
        for name, node in public_names(ast.parse(text).body)
    ]
    assert len(names) > 900
    assert [name for name, docstring in names if not docstring] == []


def test_a_function_fits_a_screen_and_a_file_has_400_lines_at_most():
    files = dict(sources("pipeline", "stages", "benchmarks", "tests"))
    assert [file for file, text in files.items() if text.count("\n") > 400] == []
    functions = [
        (f"{file}: {node.name}", node.end_lineno - node.lineno + 1)
        for file, text in files.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]
    assert {name: lines for name, lines in functions if lines > 50} == {}


def test_every_stage_runs_the_command_of_its_name():
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(STAGES)
    for name, entry in stages.items():
        assert entry.get("do", entry)["cmd"].startswith(f"cadmllm {name}")


def test_help_answers_at_once():
    """Without torch, transformers, OCP and wandb: they take seconds."""
    heavy = {"torch", "transformers", "OCP", "wandb", "dvc"}
    code = f"import sys, stages.cli; print(sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_what_sandboxes_run_needs_no_torch():
    """Which takes seconds to load, and each of their processes hundreds of MiB."""
    calls = (
        node
        for _, text in sources("pipeline", "stages")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and called(node.func) in ("Sandbox", "pool")
        and isinstance(node.args[0], ast.Name)
    )
    names = {call.args[0].id for call in calls}
    assert len(names) > 5
    defined = {
        module_name(file)
        for file, text in sources("pipeline")
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in names
    }
    code = f"import sys, {', '.join(sorted(defined))}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def called(function):
    return getattr(function, "attr", getattr(function, "id", None))


def module_name(file):
    return file.removesuffix(".py").replace("/", ".")


@pytest.mark.slow
def test_the_model_is_imported_without_a_word():
    """PEFT imports bitsandbytes where it is installed; that has something to say where a CPU has AVX512-BF16."""
    pytest.importorskip("bitsandbytes")
    code = """
import ctypes
known = ctypes.CDLL.__getattr__
ctypes.CDLL.__getattr__ = lambda lib, name: (lambda: 1) if name == "has_avx512bf16_cpu" else known(lib, name)
import pipeline.model.checkpoint
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stderr == ""


def test_the_command_line_is_what_users_know():
    result = CliRunner().invoke(app, ["--help"])
    for name in (*STAGES, "generate", "status", "doctor", "verify", "preset", "checkpoint"):
        assert name in result.output
    options = {
        "features": ["--modality"],
        "train": ["STAGE"],
        "evaluate": ["STAGE"],
        "generate": ["caption", "--points", "--image", "--out", "--checkpoint", "--size-mm", "--temperature", "--seed"],
    }
    for name, expected in options.items():
        text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "160"}).output
        for option in expected:
            assert option in text or option.upper() in text, (name, option)


def test_dvc_reads_both_pipelines():
    found = subprocess.run(
        [Path(sys.executable).with_name("dvc"), "stage", "list", "--all", "--name-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert {"report", "pretraining/dvc.yaml:ship"} <= set(found.stdout.split())


def test_what_pretraining_depends_on_is_there():
    """DVC would say it after hours: rooms by their names, and parameters."""
    folder, yaml = ROOT / "pretraining", YAML(typ="safe", pure=True)
    parameters = yaml.load((folder / "params.yaml").read_text())
    entries = [each.get("do", each) for each in yaml.load((folder / "dvc.yaml").read_text())["stages"].values()]
    rooms = {dep for entry in entries for dep in entry["deps"] if dep.startswith("../")}
    assert len(rooms) > 3
    assert [dep for dep in rooms if not (folder / dep).is_dir()] == []
    for name in {name for entry in entries for name in entry["params"]}:
        functools.reduce(operator.getitem, name.split("."), parameters)


def test_the_pipeline_is_seen_at_a_glance():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 160
