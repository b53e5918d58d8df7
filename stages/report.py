"""The ``report`` stage: metrics, plots and one page to look at."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pipeline.report.settings import ReportSections
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.commands import long_running, minutes_of
from pipeline.runtime.csv_files import csv_text
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import display
from pipeline.settings.places import (
    CHECKPOINTS,
    CORPUS,
    EVALUATIONS,
    GEOMETRY,
    METRICS,
    MODELS,
    PLOTS,
    REPORT,
    SKIPPED,
    TRANSFER,
)
from pipeline.settings.resolved import read_models
from pipeline.shards.manifest import Manifest, read_rejects, reasons


@long_running
def report(
    opened: Annotated[bool, typer.Option("--open", help="Then open it in a browser.")] = False,
) -> None:
    """Write report/index.html, metrics/summary.json and the plots over all stages."""
    p = ReportSections.load()
    from pipeline.metrics.summary import summary
    from pipeline.report.build import ReportInputs, plot_tables, read_result, render

    with display("report") as show:
        results = [read_result(name, CHECKPOINTS / name, METRICS, EVALUATIONS / name) for name in p.curriculum]
        folders = {"corpus": CORPUS, "geometry": GEOMETRY}
        rejects = {name: reasons(read_rejects(folder)) for name, folder in folders.items()}
        try:
            worse, found, real = (
                json.loads((METRICS / f"{name}.json").read_text(encoding="utf-8"))
                for name in ("robustness", "retrieval", "transfer")
            )
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; run `cadmllm {Path(error.filename).stem}`") from error
        curriculum = [f"{command} {name}" for command in ("train", "evaluate") for name in p.curriculum]
        features = [f"features --modality {modality}" for modality in ("image", "point_cloud")]
        minutes = minutes_of(
            ["models", "corpus", "geometry", *features, *curriculum, "robustness", "retrieval", "transfer"]
        )
        figures = summary(results[-1].evaluation, real)
        for name, table in plot_tables(results).items():
            write_text(PLOTS / f"{name}.csv", csv_text(*table))
        write_text(METRICS / "summary.json", json.dumps(figures, indent=1, sort_keys=True) + "\n")
        inputs = ReportInputs(
            Manifest.read(CORPUS, "corpus").details,
            rejects,
            read_models(MODELS),
            worse,
            found,
            real,
            EVALUATIONS / TRANSFER,
            "" if real else (EVALUATIONS / TRANSFER / SKIPPED).read_text(encoding="utf-8"),
        )
        page = render(p, results, inputs)
        with atomic_folder(REPORT) as folder:
            write_text(folder / "index.html", page)
        took = "" if minutes is None else f"; what came before took {minutes:g} minutes"
        show.say(f"{REPORT / 'index.html'}: {len(page) >> 10} KiB{took}")
    if opened:
        webbrowser.open((REPORT / "index.html").absolute().as_uri())
