"""Where the real models and the recorded fixtures are, and what could not be checked without them."""

import gc
import os
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).with_name("fixtures")
SHARED = ROOT.parent / "shared"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
# Processes that share the cores, and all that they start, wait for one another if each takes every core.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for variable in ("OMP_NUM_THREADS", "CADMLLM_WORKERS"):
        os.environ.setdefault(variable, str(share))


import torch  # noqa: E402 - it has to find the number of threads above

from tests import pretended  # noqa: E402


@pytest.fixture(params=["pretended", "cuda"])
def gpu(request):
    """A GPU, while the test lasts: the first of this machine, or a pretended one where there is none."""
    real = torch.cuda.is_available()
    if request.param == "cuda":
        if not real:
            pytest.skip("no CUDA device")
        yield torch.device("cuda", 0)
    elif real:
        pytest.skip("a CUDA device is here")
    else:
        with pretended.card() as device:
            yield device


def shared(path: str) -> Path:
    """A file or folder beside the project; the test is skipped where it is absent."""
    place = SHARED / path
    if not place.exists():
        pytest.skip(f"shared/{path} is not here")
    return place


def longer(*values):
    """Values of a parametrised test for `make longer`: in `make test` others of the same kind stand for them."""
    return pytest.param(*values, marks=pytest.mark.longer)


@pytest.fixture(scope="session")
def real_models() -> list[Path]:
    """Real Omni-CAD files."""
    return sorted(shared("omnicad/json").glob("*/*.json"))


def pytest_xdist_auto_num_workers(config):
    """With ``auto`` one more than there are cores: while one waits for a disk or a process, another works."""
    cores = len(os.sched_getaffinity(0)) + (config.option.numprocesses == "auto")
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or cores)


@pytest.hookimpl(tryfirst=True)  # before xdist takes the groups' names over
def pytest_collection_modifyitems(items):
    """Fast tests come first, then slow ones of units, each module's in one process, which makes what they share.

    Then one that needs the finished project, and those that need none of it: one process makes it, while another does
    those. Of each kind tests that stay together go first, which take longest. Those that only look at the finished
    project, which are short, come last: both processes are busy until the end.
    """

    def is_slow(item):
        return item.get_closest_marker("slow") is not None

    for item in items:
        if item.path.parent.name == "unit":
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {is_slow(item)}"))
    first = next((item for item in items if "done" in item.fixturenames), None)

    def rank(item):
        if item.path.parent.name == "unit":
            return is_slow(item) / 2
        if item is first:
            return 1
        alone = item.get_closest_marker("xdist_group") is None
        if alone and "done" in item.fixturenames and "tracked" not in item.fixturenames:
            return 4
        return (3 if "done" in item.fixturenames else 2) + alone / 2

    items.sort(key=rank)


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it each time."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """For each thing beside the project that is absent: how many tests were skipped for it."""
    reasons = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    absent = Counter(path for reason in reasons for path in re.findall(r"(shared/\S+) is not here", reason))
    if absent:
        terminalreporter.section("not checked")
    for path, count in sorted(absent.items()):
        terminalreporter.line(f"../{path} is not here; tests skipped: {count}")
