"""The documentation's examples, as they stand there: run in the finished project, or left out with a reason."""

import contextlib
import functools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.parts import synthesis
from pipeline.shards.reader import CorpusReader
from tests.conftest import longer
from tests.func.forked import for_dvc
from tests.unit.test_docs import DOCS, FENCE, ROOT

PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
READ_FIRST = ("README", "tour", "generating", "scans")  # the other pages' commands `make longer` runs
# Lines that are not run, by their beginnings, and why.
NOT_RUN = {
    r"git clone|make |apt-get |(PIP_\S+ )?make|source |docker ": "sets a machine up, as CI's own does",
    r"pip install|cadmllm --install-completion": "changes what the tests run in",
    r"ray |sbatch |kubectl |export |torchrun |cadmllm train .*--nproc|CADMLLM_NPROC": "wants several processes or GPUs",
    r"dvc (repro|exp|queue)|cd pretraining|cadmllm evaluate": "runs pipeline stages for long, as other tests do",
    r"dvc (commit|remote|push|metrics diff)|git commit": "wants a history or a remote, as test_storage.py has it",
    r"cadmllm (demo|serve)|.*--watch|.*--open": "lasts until it is stopped, or opens a browser",
    r".*--push": "goes to the Hugging Face hub",
    r"cadmllm plan": "measures for half a minute; test_pipeline.py has it in short",
    r"cadmllm preset use": "would leave another project for the lines that follow; test_mistakes.py has it",
    r"python benchmarks/": "is run by .ci/benchmarks.py",
    r"python -m pytest": "is one of the tests",
}
# The same with less of it, and what no made project has.
IN_SHORT = {
    "--search 20": "--search 1",
    "--builds 4000": "--builds 20",
    "--candidates 8": "--candidates 2",
    "num_candidates=8": "num_candidates=2, max_new_tokens=96",
    "cadmllm generate": "cadmllm generate --max-tokens 96",
    "--quiet generate": "--quiet generate --max-tokens 96",
    "parts-model --checkpoint": "parts-of-stage2 --checkpoint",
    "parts-model --merged": "parts-merged --merged",
    "parts-data --geometry": "parts-with-clouds --geometry",
    "000000..000004": "000000..000000",
    "000000000071_00005": "{key}",
    "[0, 3]": "[0, 1]",
    '\\"seconds\\": 10': '\\"seconds\\": 1',
    "curl -s": "curl -f -s",
}
PYTHON_NOT_RUN = {"import cadquery": "is a script that `cadmllm cad convert` writes; needs CadQuery"}


def in_short(text):
    for written, instead in IN_SHORT.items():
        text = text.replace(written, instead)
    return text


def lines(page):
    """The commands of a page: whole lines, with those that they go on in."""
    for kind, body in FENCE.findall(page.read_text()):
        if kind == "bash":
            yield from (line for line in body.replace("\\\n", " ").splitlines() if line.partition("#")[0].strip())


def reason(line):
    return next((why for begin, why in NOT_RUN.items() if re.match(begin, line)), None)


@functools.cache
def runs(page):
    """What is run of a page: nothing that stands on an earlier one, too."""
    before = {plain(line) for other in PAGES[: PAGES.index(page)] for line in lines(other)}
    return [in_short(line) for line in lines(page) if reason(line) is None and plain(line) not in before]


def plain(line):
    return " ".join(line.partition(" #")[0].split())


def scripts(page):
    found = [body for kind, body in FENCE.findall(page.read_text()) if kind == "python"]
    return [in_short(body) for body in found if not any(mark in body for mark in PYTHON_NOT_RUN)]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The files that examples name."""
    folder = tmp_path_factory.mktemp("given")
    program = synthesis.make_part(0, 5, ("stepped_shaft",)).program
    assert len(program.extrudes) > 2
    (folder / "data/raw/Omni-CAD/json/0000").mkdir(parents=True)
    for name in ("predicted", "true"):
        (folder / name).mkdir()
    names = (
        "part.json part.step flange.json begun.json scan.stl scan.ply predicted.step true.step predicted.stl true/a.stl"
    )
    for name in (*names.split(), "predicted/a.stl", "data/raw/Omni-CAD/json/0000/00000071_00005.json"):
        convert(ConvertTask(program, folder / name, WriteOptions()))
    np.save(folder / "scan.npy", read_scan(folder / "scan.stl", 512).points)
    (folder / "data/raw/Omni-CAD/txt").mkdir()
    captions = [{"id": "0000/00000071_00005", "text caption": "A stepped shaft."}]
    (folder / "data/raw/Omni-CAD/txt/0000.json").write_text(json.dumps(captions))
    return folder


def bash(project, commands):
    env = {**project.env, **for_dvc(project.env["PATH"])}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(commands)]
    found = subprocess.run(
        command, cwd=project.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert found.returncode == 0, "\n".join([*commands, found.stdout])


@pytest.mark.parametrize(
    "page",
    [page if page.stem in READ_FIRST else longer(page) for page in PAGES if page.stem != "service" and runs(page)],
    ids=lambda page: page.stem,
)
def test_commands(copy, given, page):
    if any("| jq" in line for line in runs(page)) and shutil.which("jq") is None:
        pytest.skip("jq is not here")
    shutil.copytree(given, copy.folder, dirs_exist_ok=True)
    bash(copy, runs(page))


@pytest.mark.xdist_group("serving")
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="jq or curl is not here")
def test_commands_for_the_service(server, done, given, tmp_path):
    shutil.copy(given / "scan.stl", tmp_path)
    said = [line.replace("localhost:8642", f"localhost:{server.port}") for line in runs(DOCS / "service.md")]
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(said)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "part.step").read_bytes().startswith(b"ISO-10303-21;")


# webdataset closes a tar when it is read to its end.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if scripts(page)], ids=lambda page: page.stem)
def test_python(copy, given, page):
    shutil.copytree(given, copy.folder, dirs_exist_ok=True)
    if page.stem == "export":
        copy.call("export", "model", "parts-model")
    key = CorpusReader(copy.folder / "data/corpus").key(0)
    with contextlib.chdir(copy.folder):
        for script in scripts(page):
            exec(compile(script.replace("{key}", key), page.name, "exec"), {"__name__": page.stem})


def test_every_reason_is_that_of_a_line():
    left_out = [line for page in PAGES for line in lines(page)]
    assert [begin for begin in NOT_RUN if not any(re.match(begin, line) for line in left_out)] == []
    told = "".join(page.read_text() for page in PAGES)
    assert [written for written in (*IN_SHORT, *PYTHON_NOT_RUN) if written not in told] == []
    assert sum(len(runs(page)) for page in PAGES) > 40
