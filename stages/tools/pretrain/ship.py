"""``cadmllm pretrain ship``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.curriculum.log import read_log
from pipeline.runtime.commands import command
from pipeline.runtime.errors import UserError
from pipeline.settings.places import CORPUS, GEOMETRY, SHIPPED
from stages.tools.pretrain.common import (
    ALIGNED,
    ENCODERS,
    IMAGE_ENCODER,
    LANGUAGE,
    LANGUAGE_MODEL,
    RECONSTRUCTION,
    SCORES,
    SHAPE_ENCODER,
    settings,
    speed_log,
)

# Where each is, and the folders with its scores.
PLACES = {
    SHAPE_ENCODER: (ENCODERS / SHAPE_ENCODER, (ALIGNED, RECONSTRUCTION, ENCODERS)),
    IMAGE_ENCODER: (ENCODERS / IMAGE_ENCODER, (ENCODERS,)),
    LANGUAGE_MODEL: (LANGUAGE, (LANGUAGE,)),
}
EXAMPLES = "examples"  # for the page: parts that none of these was trained on
NAMES = ", ".join((*PLACES, EXAMPLES))
# What each was trained by, whose time its card tells, where it was trained here.
STEPS = {
    SHAPE_ENCODER: (SHAPE_ENCODER, "reconstruction"),
    IMAGE_ENCODER: (SHAPE_ENCODER, IMAGE_ENCODER),
    LANGUAGE_MODEL: ("reconstruction", LANGUAGE_MODEL),
}


@command
def ship_all(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help=f"{NAMES}: all.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for the models.")] = SHIPPED,
) -> None:
    """Copy what was pretrained into the package: half precision, a card with each; and examples for the page."""
    if unknown := set(names or ()) - {*PLACES, EXAMPLES}:
        raise UserError(f"nothing is called {', '.join(sorted(unknown))}; there are {NAMES}")
    networks = [name for name in names or PLACES if name != EXAMPLES]
    if networks:
        _ship_networks(networks, to)
    if names is None or EXAMPLES in names:
        _ship_examples(to)


def _ship_networks(names: list[str], to: Path) -> None:
    p, recipe = settings()
    from pipeline.pretraining.shipping import card, ship

    for name in names:
        source, scored = PLACES[name]
        scores = {key: value for folder in scored for key, value in _scores(folder).items()}
        logs = {step: speed_log(step) for step in STEPS[name]}
        minutes = {f"minutes of {step}": round(_minutes(log)) for step, log in logs.items() if log.is_file()}
        size = ship(source, to / name, card(name, p.data.synthetic, p.seed, recipe, scores | minutes))
        typer.echo(f"{to / name}: {size / 1e6:.1f} MB")


def _ship_examples(to: Path) -> None:
    """Of the corpus here, which need not be the networks' own: what they were trained on is left out."""
    from pipeline.serving.examples import held_out, write_examples
    from pipeline.shards.seen import read_seen

    seen = frozenset().union(*(read_seen(to / name) for name in PLACES))
    examples = held_out(CORPUS, GEOMETRY, seen)
    write_examples(to / EXAMPLES, examples)
    typer.echo(f"{to / EXAMPLES}: {len(examples)} parts")


def _minutes(log: Path) -> float:
    seconds: float = sum(line["seconds"] for line in read_log(log))
    return seconds / 60


def _scores(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder / SCORES} is missing; pretraining is not finished ({error})") from error
    return found
