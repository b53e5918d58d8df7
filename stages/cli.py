"""The ``cadmllm`` app: one command for each DVC stage, and the tools around them."""

import typer

from stages.corpus import corpus
from stages.evaluate import evaluate
from stages.features import features
from stages.geometry import geometry
from stages.models import models
from stages.report import report
from stages.train import train

app = typer.Typer(
    name="cadmllm",
    help="Train and use language models that write parametric CAD programs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STAGES = "Pipeline stages (dvc repro runs them in order)"
for function in (models, corpus, geometry, features, train, evaluate, report):
    app.command(rich_help_panel=STAGES)(function)
