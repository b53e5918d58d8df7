"""Whether requirements.lock is closed: it has all that its packages ask for, at versions that they accept, and no more;
and whether the package index serves the files that were locked, by their sha256 in requirements.hashes.

pip takes no hashes in a constraint file (see `make lock`), so they are compared here; pip itself sees that a file has
the sha256 that the index says. torch's CPU build comes from another index and has none.
Asked for Python 3.11 and 3.12 and for both builds of torch, on Linux. The metadata is what the package index has, which
pip reads without the packages; that of torch's CPU build, which is not on PyPI, lies beside this file.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CPU_BUILD = Path(__file__).with_name("torch-cpu.metadata")
PYTHONS = ("3.11", "3.12")

Requirements = dict[str, list[Requirement]]  # by package
Lock = dict[str, str]  # versions by package


def environment(python: str) -> dict[str, str]:
    """This machine's values of markers, under another Python."""
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}


def read_lock(python: str) -> Lock:
    """What is locked for a Python on this machine."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    return {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for each in locked
        if each.marker is None or each.marker.evaluate(environment(python))
    }


def project() -> tuple[str, list[Requirement], Requirements]:
    """The project's name, all that it asks for, extras and groups included, and what it says of others' metadata."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    table = document["project"]
    lists = (table["dependencies"], *table["optional-dependencies"].values(), *document["dependency-groups"].values())
    own = [Requirement(each) for some in lists for each in some]
    stated = {
        entry["name"]: [Requirement(each) for each in entry["requires-dist"]]
        for entry in document["tool"]["uv"]["dependency-metadata"]
    }
    return table["name"], [each for each in own if each.name != table["name"]], stated


def index_files(lock: Lock, python: str) -> list[dict[str, Any]]:
    """What pip would install of each locked package, as the index has it for a Python; of torch the build for CUDA.

    Fails where the index has no package of that version that fits the Python.
    """
    # === takes no 2.13.0+cpu for 2.13.0.
    wanted = [f"{name}{'===' if name == 'torch' else '=='}{version}" for name, version in lock.items()]
    with tempfile.NamedTemporaryFile() as report:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        subprocess.run([*command, "--python-version", python, "--report", report.name, *wanted], check=True)
        found: list[dict[str, Any]] = json.load(report)["install"]
    return found


def index_metadata(files: list[dict[str, Any]]) -> Requirements:
    """What each package asks for."""
    found = [each["metadata"] for each in files]
    return {
        canonicalize_name(each["name"]): [Requirement(line) for line in each.get("requires_dist", ())] for each in found
    }


def other_files(files: list[dict[str, Any]]) -> Iterable[str]:
    """Files whose sha256 requirements.hashes does not name for their package and version."""
    text = (ROOT / "requirements.hashes").read_text(encoding="utf-8").replace("\\\n", " ")
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)(.*)$", text, re.MULTILINE)
    pinned = {(canonicalize_name(name), version): hashes for name, version, hashes in entries}
    for each in files:
        package = canonicalize_name(each["metadata"]["name"]), each["metadata"]["version"]
        sha256 = each["download_info"]["archive_info"].get("hashes", {}).get("sha256", "none")
        if f"--hash=sha256:{sha256}" not in pinned.get(package, ""):
            yield f"{each['download_info']['url'].rpartition('/')[2]} of sha256 {sha256} is not what was locked"


def cpu_build(version: str) -> list[Requirement]:
    """What torch's CPU build asks for: as it was recorded, and as it is installed where it is."""
    recorded = HeaderParser().parsestr(CPU_BUILD.read_text(encoding="utf-8"))
    if recorded["Version"] != f"{version}+cpu":
        raise SystemExit(f"{CPU_BUILD.name} is of {recorded['Version']}, the lock of {version}: copy the new wheel's")
    lines: list[str] = recorded.get_all("Requires-Dist", [])
    here = distribution("torch")
    if here.version == recorded["Version"] and here.requires != lines:
        raise SystemExit(f"{CPU_BUILD.name} is not what the installed torch {here.version} asks for")
    return [Requirement(line) for line in lines]


def closure(root: str, requirements: Requirements, lock: Lock, python: str) -> tuple[set[str], list[str]]:
    """What is reached from the project, and what is asked for that the lock has not, or not so."""
    reached: set[tuple[str, str]] = set()
    faults: dict[str, None] = {}  # in the order of finding
    todo = [(root, "")]
    while todo:
        package = name, extra = todo.pop()
        if package in reached:
            continue
        reached.add(package)
        for each in requirements[name]:
            if each.marker and not each.marker.evaluate({**environment(python), "extra": extra}):
                continue
            wanted = canonicalize_name(each.name)
            if wanted in lock:
                todo += [(wanted, some) for some in ("", *each.extras)]
            if wanted not in lock or not each.specifier.contains(lock[wanted], prereleases=True):
                faults[f"{name} asks for {each}; locked: {lock.get(wanted, 'none')}"] = None
    return {name for name, _ in reached}, list(faults)


def check(python: str) -> Iterable[str]:
    """What is wrong under a Python."""
    lock = read_lock(python)
    root, own, stated = project()
    files = index_files(lock, python)
    yield from (f"Python {python}: {fault}" for fault in other_files(files))
    requirements = {**index_metadata(files), **stated, root: own}
    builds = {"CUDA": requirements, "CPU": {**requirements, "torch": cpu_build(lock["torch"])}}
    used: set[str] = set()
    for build, each in builds.items():
        reached, faults = closure(root, each, lock, python)
        used |= reached
        yield from (f"Python {python}, {build} build: {fault}" for fault in faults)
    yield from (f"Python {python}: nothing asks for {name}" for name in sorted(lock.keys() - used))


def main() -> None:
    """Check both Pythons at once; most of it is waiting for the index."""
    with ThreadPoolExecutor() as pool:
        faults = [fault for some in pool.map(lambda python: list(check(python)), PYTHONS) for fault in some]
    if faults:
        raise SystemExit("\n".join(["requirements.lock is not closed (make lock):", *faults]))
    print(f"requirements.lock is closed for Python {' and '.join(PYTHONS)}, with torch for CUDA and for the CPU;")
    print("the index serves the files that were locked")


if __name__ == "__main__":
    main()
