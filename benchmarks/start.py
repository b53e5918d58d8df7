"""How soon commands answer: prints one JSON object.

    python benchmarks/start.py [--project FOLDER] [--runs 3]

``generate_s`` is ``cadmllm generate`` with a caption, from its start to its end, by a checkpoint of the folder's
project: without one, the shipped networks with an untrained adapter, which take as long to load and write no longer
programs. ``help_s_max`` is the ``--help`` of the command that takes longest with it, ``help_slowest``; Python's own
start is taken off. The fastest of some runs each. ``…_cpu_s`` is the time that processors worked, which other work on
the machine lengthens less; of ``generate`` without the processes that build the solid beside it.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import ROOT, parse
from typer.main import get_command

from stages.cli import app

CAPTION = "A plate with four holes."
TOKENS = 96
CADMLLM = (sys.executable, "-m", "stages.cli")


def run_s(runs: int, folder: Path, *command: str) -> tuple[float, float]:
    """Seconds that a command takes, and that processors work for it: the fewest of several runs."""
    found = []
    for _ in range(runs):
        started, worked = time.perf_counter(), children_s()
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        found.append((time.perf_counter() - started, children_s() - worked))
    return min(each[0] for each in found), min(each[1] for each in found)


def children_s() -> float:
    """Seconds that processors have worked for processes which this one started and which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of all commands and groups, from one on."""
    yield path
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), (*path, name))


def make_project(folder: Path) -> None:
    """The shipped networks, and a checkpoint that is not trained."""
    shutil.copytree(ROOT / "presets", folder / "presets")
    for words in ("preset use quickstart", "models", "checkpoint from-models checkpoints/stage3_all"):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run((*CADMLLM, *words.split()), cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--project", type=Path, help="a finished project; default: one is made")
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--commands", type=int, help="only the first so many")
    arguments = parse(parser, runs=1, commands=2)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.project or Path(name)
        if arguments.project is None:
            make_project(folder)
        python_s, python_cpu_s = run_s(max(arguments.runs, 2), folder, sys.executable, "-c", "pass")
        words = ("generate", CAPTION, "--max-tokens", str(TOKENS), "--out", str(Path(name) / "part.json"))
        generate_s, generate_cpu_s = run_s(arguments.runs, folder, *CADMLLM, *words)
        helps = {
            " ".join(path): run_s(arguments.runs, folder, *CADMLLM, *path, "--help")
            for path in [*commands(get_command(app))][: arguments.commands]
        }
    slowest = max(helps, key=lambda name: helps[name][1])
    found = {
        "generate_s": generate_s,
        "generate_cpu_s": generate_cpu_s,
        "help_s_max": max(each[0] for each in helps.values()) - python_s,
        "help_cpu_s_max": helps[slowest][1] - python_cpu_s,
        "python_s": python_s,
    }
    print(json.dumps({**{key: round(value, 2) for key, value in found.items()}, "help_slowest": slowest}))


if __name__ == "__main__":
    main()
