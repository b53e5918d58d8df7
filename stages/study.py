"""``cadmllm study``: a comparison of variants, as DVC experiments."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.atomic import write_text
from pipeline.errors import UserError
from stages.runner import command

OUT = Path("studies")


@command
def study(
    name: Annotated[str, typer.Argument(help="A file of presets/studies/.")] = "curriculum",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing: table and plot of what has run.")] = False,
) -> None:
    """Train every variant with every seed as a DVC experiment beside the workspace, and write a table and a plot.

    Data and features are those of params.yaml, made by `dvc repro` before; only training and evaluation are repeated.
    What has run already is not run again. Each run is an experiment: `dvc exp show` lists them.
    """
    from pipeline import params
    from pipeline.study import collect as figures_of
    from pipeline.study import markdown, trials, write_plot
    from pipeline.yaml_files import read_yaml

    wanted = trials(name, seeds, read_yaml(params.PARAMS_FILE))
    known = _finished()
    if not collect:
        for trial in wanted:
            if trial.name in known:
                typer.echo(f"{trial.name}: has run", err=True)
            else:
                _run(trial.name, trial.document, list(trial.params.curriculum)[-1])
        known = _finished()
    figures = figures_of([trial for trial in wanted if trial.name in known], _read)
    if not figures:
        raise UserError(f"no experiment of the study {name} has run on this commit; leave --collect out")
    write_text(OUT / name / "figures.json", json.dumps(figures, indent=1) + "\n")
    write_text(OUT / name / "table.md", markdown(figures))
    write_plot(figures, OUT / name / "plot.svg")
    typer.echo(markdown(figures), nl=False)
    typer.echo(f"{OUT / name}: figures.json, table.md, plot.svg", err=True)


def _run(name: str, document: Any, last: str) -> None:
    """One experiment in a folder of its own, under the given parameters; those of the workspace stay."""
    from pipeline import params, presets

    own = params.PARAMS_FILE.read_text(encoding="utf-8")
    try:
        presets.write(document, params.PARAMS_FILE)
        _dvc("exp", "run", "--queue", "--name", name, f"evaluate@{last}")
    finally:
        write_text(params.PARAMS_FILE, own)
    _dvc("exp", "run", "--run-all")


def _dvc(*arguments: str, capture: bool = False) -> str:
    """Run DVC; what it printed, where that is captured."""
    command_line = [str(Path(sys.executable).with_name("dvc")), *arguments]
    done = subprocess.run(command_line, check=False, stdout=subprocess.PIPE if capture else None, text=True)  # noqa: S603
    if done.returncode != 0:
        raise UserError(f"dvc {' '.join(arguments)} failed; what has run is kept")
    return done.stdout or ""


def _finished() -> set[str]:
    """Experiments on the current commit."""
    return set(_dvc("exp", "list", "--name-only", capture=True).split())


def _read(name: str, path: str) -> dict[str, Any]:
    """A metrics file of an experiment."""
    import dvc.api

    found: dict[str, Any] = json.loads(dvc.api.read(path, rev=name))
    return found
