"""Where the real models and the recorded fixtures are, and small things that several tests need."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
# Processes that share the cores, and all that they start, wait for one another if each takes every core.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def shared(path: str) -> Path:
    """A file or folder beside the project; the test is skipped where it is absent."""
    place = SHARED / path
    if not place.exists():
        pytest.skip(f"shared/{path} is not here")
    return place


@pytest.fixture(scope="session")
def real_models() -> list[Path]:
    """Real Omni-CAD files."""
    return sorted(shared("omnicad/json").glob("*/*.json"))
