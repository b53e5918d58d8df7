"""The ``cadmllm`` app: one command for each DVC stage, and the tools around them."""

from collections.abc import Callable
from typing import Annotated

import typer

from stages.cad import cad
from stages.corpus import corpus
from stages.doctor import doctor
from stages.evaluate import evaluate
from stages.features import features
from stages.generate import generate
from stages.geometry import geometry
from stages.models import models
from stages.report import report
from stages.status import status
from stages.tools import checkpoint, preset, verify
from stages.train import train

app = typer.Typer(
    name="cadmllm",
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


STAGES = "Pipeline stages, in order"
TOOLS = "Tools"
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    STAGES: (models, corpus, geometry, features, train, evaluate, report),
    TOOLS: (generate, status, doctor, verify),
}
for panel, functions in COMMANDS.items():
    for function in functions:
        app.command(rich_help_panel=panel)(function)
app.add_typer(cad, name="cad", rich_help_panel=TOOLS)
app.add_typer(preset, name="preset", rich_help_panel=TOOLS)
app.add_typer(checkpoint, name="checkpoint", rich_help_panel=TOOLS)
