"""The ``cadmllm`` app: one command for each pipeline stage, and the tools around them."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer
from typer.core import TyperGroup

from pipeline.planning.params import Params
from pipeline.runtime.commands import command
from stages.corpus import corpus
from stages.evaluate import evaluate
from stages.features import encode, features
from stages.geometry import geometry
from stages.models import models
from stages.report import report
from stages.retrieval import retrieval
from stages.robustness import robustness
from stages.tools.cad import cad
from stages.tools.doctor import doctor
from stages.tools.export import export
from stages.tools.generate import generate
from stages.tools.metrics import metrics
from stages.tools.plan import plan
from stages.tools.pretrain import pretrain
from stages.tools.serve import demo, serve
from stages.tools.status import status
from stages.tools.study import study
from stages.tools.upkeep import checkpoint, preset, verify
from stages.train import train
from stages.transfer import transfer

P = ParamSpec("P")


class InOrder(TyperGroup):
    """Lists commands and groups of commands as they are listed here; Typer would list groups first."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """As ``COMMANDS`` has them."""
        return [name for commands in COMMANDS.values() for name in commands]


app = typer.Typer(
    name="cadmllm",
    cls=InOrder,
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
) -> None:
    """Train and use language models that write parametric CAD programs."""


@command
def check_params() -> None:
    """See to it that all of params.yaml is right, also what the command at hand does not read."""
    Params.load()


def checked(run_stage: Callable[P, None]) -> Callable[P, None]:
    """A pipeline stage's command, begun with ``check_params``: a typo in what a later one reads is told hours before.

    Not in its own module: what that imports is the code that its results depend on, and they do not on this.
    """

    @functools.wraps(run_stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        check_params()
        run_stage(*args, **kwargs)

    return run


STAGES = "Pipeline stages, in order"
TOOLS = "Tools"
COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    STAGES: {
        "models": models,
        "corpus": corpus,
        "geometry": geometry,
        "features": features,
        "train": train,
        "evaluate": evaluate,
        "robustness": robustness,
        "retrieval": retrieval,
        "transfer": transfer,
        "report": report,
    },
    TOOLS: {
        "generate": generate,
        "demo": demo,
        "serve": serve,
        "export": export,
        "metrics": metrics,
        "cad": cad,
        "plan": plan,
        "status": status,
        "doctor": doctor,
        "verify": verify,
        "preset": preset,
        "checkpoint": checkpoint,
        "study": study,
        "pretrain": pretrain,
    },
}
features.callback()(checked(encode))  # a group: the pipeline stage itself is what it does without a subcommand
for panel, commands in COMMANDS.items():
    for name, each in commands.items():
        if isinstance(each, typer.Typer):
            app.add_typer(each, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(checked(each) if panel == STAGES else each)

if __name__ == "__main__":  # torchrun starts a module
    app(prog_name="cadmllm")
