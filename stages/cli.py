"""The ``cadmllm`` app: one command for each pipeline stage, and the tools around them.

A command's module is imported when it is asked for, or when all are listed: what one imports costs no other.
"""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer
import typer.main
from typer.core import TyperGroup

from pipeline.runtime.commands import VERBOSE, command, importing
from pipeline.runtime.progress import QUIET

P = ParamSpec("P")
STAGES = "Pipeline stages, in order"
TOOLS = "Tools"
COMMANDS = {
    STAGES: {
        "models": "stages.models",
        "corpus": "stages.corpus",
        "geometry": "stages.geometry",
        "features": "stages.features",
        "train": "stages.train",
        "evaluate": "stages.evaluate",
        "robustness": "stages.robustness",
        "retrieval": "stages.retrieval",
        "transfer": "stages.transfer",
        "report": "stages.report",
    },
    TOOLS: {
        "generate": "stages.tools.generate",
        "demo": "stages.tools.serve",
        "serve": "stages.tools.serve",
        "export": "stages.tools.export",
        "metrics": "stages.tools.metrics",
        "cad": "stages.tools.cad",
        "plan": "stages.tools.plan",
        "status": "stages.tools.status",
        "doctor": "stages.tools.doctor",
        "verify": "stages.tools.upkeep",
        "preset": "stages.tools.upkeep",
        "checkpoint": "stages.tools.upkeep",
        "study": "stages.tools.study",
        "pretrain": "stages.tools.pretrain",
    },
}


class Commands(TyperGroup):
    """Commands and groups of commands, in the order of ``COMMANDS``."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """As ``COMMANDS`` has them."""
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them, imported."""
        for panel, commands in COMMANDS.items():
            if cmd_name in commands and cmd_name not in self.commands:
                with importing():
                    found = getattr(importlib.import_module(commands[cmd_name]), cmd_name)
                self.add_command(_made(cmd_name, found, panel), cmd_name)
        return super().get_command(ctx, cmd_name)


def _made(name: str, found: "Callable[..., None] | typer.Typer", panel: str) -> Any:
    """A function, or a group of them, as a command."""
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name, rich_help_panel=panel)(checked(found) if panel == STAGES else found)
        return typer.main.get_command(alone)
    if name == "features":  # the pipeline stage itself is what it does without a subcommand
        from stages.features import encode

        found.callback()(checked(encode))
    beside = typer.Typer(add_completion=False)
    beside.add_typer(found, name=name, rich_help_panel=panel)
    beside.callback()(lambda: None)
    return typer.main.get_group(beside).commands[name]


app = typer.Typer(
    name="cadmllm",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"cadmllm {version('cadmllm-curriculum')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With an error, where it comes from.")] = False,
) -> None:
    """Train and use language models that write parametric CAD programs.

    Exit codes: 0 done, 1 something to put right (said in one line), 2 a command typed wrong, 130 stopped (what is
    finished is kept).
    """
    assert not version, "it would have stopped"
    for variable, wanted in ((QUIET, quiet), (VERBOSE, verbose)):
        if wanted:
            os.environ[variable] = "1"


@command
def check_params() -> None:
    """See to it that all of params.yaml is right, also what the command at hand does not read."""
    from pipeline.planning.params import Params

    Params.load()


def checked(run_stage: Callable[P, None]) -> Callable[P, None]:
    """A pipeline stage's command, begun with ``check_params``: a typo in what a later one reads is told hours before.

    Not in its own module: what that imports is the code that its results depend on, and they do not on this.
    """

    @functools.wraps(run_stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if not getattr(kwargs.get("context"), "invoked_subcommand", None):  # a subcommand runs in the stage's place
            check_params()
        run_stage(*args, **kwargs)

    return run


if __name__ == "__main__":  # torchrun starts a module
    app(prog_name="cadmllm")
