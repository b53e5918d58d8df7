"""``cadmllm study``: a comparison of variants, as DVC experiments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.runtime.atomic import write_text
from pipeline.runtime.commands import color, command
from pipeline.runtime.errors import UserError
from pipeline.runtime.interrupt import stop_at_once

if TYPE_CHECKING:
    from pipeline.planning.study import Trial

OUT = Path("studies")
PLACE = Path("scratch/study")  # a clone of the project, in which the variants run
CODE = ("pipeline", "stages", "dvc.yaml")
COMMANDS = Path(sys.executable).parent  # `dvc` and `cadmllm`


@command
def study(
    name: Annotated[str, typer.Argument(help="A file of presets/studies/.")] = "curriculum",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing: table and plot of what has run.")] = False,
) -> None:
    """Train every variant with every seed as a DVC experiment beside the workspace, and write a table and a plot.

    Data and features are those of params.yaml, made by `dvc repro` before; only training and evaluation are repeated,
    by the code of the last commit. What has run is not run again, and a run that was stopped goes on where it was. Each
    run is an experiment: `dvc exp show` lists them.
    """
    from pipeline.planning.study import collect as figures_of
    from pipeline.planning.study import markdown, trials, write_plot
    from pipeline.settings import params
    from pipeline.settings.yaml_files import read_commented

    stop_at_once()
    wanted = trials(name, seeds, read_commented(params.PARAMS_FILE))
    known = _finished()
    if not collect:
        if changed := _call("git", "diff", "--name-only", "HEAD", "--", *CODE, capture=True).split():
            typer.secho(
                f"warning: not committed, so not part of the study: {', '.join(changed)}", err=True, fg=color("yellow")
            )
        for number, trial in enumerate(wanted, start=1):
            if trial.name in known:
                typer.echo(f"{trial.name}: has run", err=True)
            else:
                typer.echo(f"{trial.name}: {number} of {len(wanted)}", err=True)
                _run(trial)
        known = _finished()
    figures = figures_of([trial for trial in wanted if trial.name in known], _read)
    if not figures:
        raise UserError(f"no experiment of the study {name} has run on this commit; leave --collect out")
    write_text(OUT / name / "figures.json", json.dumps(figures, indent=1) + "\n")
    write_text(OUT / name / "table.md", markdown(figures))
    write_plot(figures, OUT / name / "plot.svg")
    typer.echo(markdown(figures), nl=False)
    typer.echo(f"{OUT / name}: figures.json, table.md, plot.svg", err=True)


def _run(trial: "Trial") -> None:
    """One experiment, in the clone, and fetched from there: the workspace stays as it is."""
    from pipeline.planning import presets
    from pipeline.settings import params

    commit = _clone()
    for model in trial.document["models"].values():  # weights of the workspace are not in the clone
        kind, _, path = model["source"].partition(":")
        if kind == "path":
            model["source"] = f"path:{Path(path).resolve()}"
    presets.write(trial.document, PLACE / params.PARAMS_FILE)
    target = f"evaluate@{list(trial.params.curriculum)[-1]}"
    # Unlike `dvc exp run`, `dvc repro` goes on after a kill; it is told the name as that would tell it to the stages.
    _call("dvc", "repro", target, folder=PLACE, DVC_EXP_NAME=trial.name)
    _call("dvc", "exp", "run", "--quiet", "--name", trial.name, target, folder=PLACE)
    reference = f"{_experiments(commit)}/{trial.name}"
    _call("git", "fetch", "--quiet", str(PLACE), f"{reference}:{reference}")


def _clone() -> str:
    """Bring the clone to the last commit, which is given; it keeps what is half done, and shares the DVC cache."""
    commit = _call("git", "rev-parse", "HEAD", capture=True).strip()
    if not (PLACE / ".git").is_dir():
        shutil.rmtree(PLACE, ignore_errors=True)
        _call("git", "clone", "--quiet", "--shared", "--no-checkout", ".", str(PLACE))
    _call("git", "fetch", "--quiet", "origin", commit, folder=PLACE)
    _call("git", "checkout", "--quiet", "--force", "--detach", commit, folder=PLACE)
    _call("git", "clean", "--quiet", "--force", "-d", folder=PLACE)
    _call("dvc", "cache", "dir", "--local", _call("dvc", "cache", "dir", capture=True).strip(), folder=PLACE)
    return commit


def _call(*command_line: str, folder: Path = Path(), capture: bool = False, **variables: str) -> str:
    """Run git or DVC, with the code and the commands of the folder; what it printed, where that is captured."""
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **variables, "PATH": path, "PYTHONPATH": str(folder.resolve())}
    output = subprocess.PIPE if capture else None
    done = subprocess.run(command_line, check=False, cwd=folder, env=env, stdout=output, text=True)  # noqa: S603
    if done.returncode != 0:
        raise UserError(f"{' '.join(command_line)} failed; what has run is kept")
    return done.stdout or ""


def _finished() -> set[str]:
    """Experiments on the current commit."""
    commit = _call("git", "rev-parse", "HEAD", capture=True).strip()
    return set(_call("git", "for-each-ref", "--format=%(refname:lstrip=4)", _experiments(commit), capture=True).split())


def _experiments(commit: str) -> str:
    """Where DVC keeps the experiments on a commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}"


def _read(name: str, path: str) -> dict[str, Any]:
    """A metrics file of an experiment."""
    import dvc.api

    found: dict[str, Any] = json.loads(dvc.api.read(path, rev=name))
    return found
