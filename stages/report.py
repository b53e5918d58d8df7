"""The ``report`` stage: metrics, plots and one page to look at."""

import csv
import io
import json
from typing import Any

from pipeline import params
from pipeline.atomic import atomic_folder, write_text
from pipeline.progress import display
from stages.runner import CHECKPOINTS, CORPUS, EVALUATIONS, GEOMETRY, METRICS, MODELS, PLOTS, REPORT, stage


@stage
def report() -> None:
    """Write report/index.html, metrics/summary.json and the plots over all stages."""
    from pipeline.encoders.weights import read_models
    from pipeline.evaluation.report import plot_rows, read_result, render, summary
    from pipeline.shards.manifest import Manifest, read_rejects, reasons

    p = params.load()
    with display("report") as show:
        results = [read_result(name, CHECKPOINTS / name, METRICS, EVALUATIONS / name) for name in p.curriculum]
        folders = {"corpus": CORPUS, "geometry": GEOMETRY}
        rejects = {step: reasons(read_rejects(folder)) for step, folder in folders.items()}
        for name, rows in plot_rows(results).items():
            write_text(PLOTS / f"{name}.csv", _csv(rows))
        write_text(METRICS / "summary.json", json.dumps(summary(results), indent=1, sort_keys=True) + "\n")
        page = render(p, results, Manifest.read(CORPUS, "corpus").details, rejects, read_models(MODELS))
        with atomic_folder(REPORT) as folder:
            write_text(folder / "index.html", page)
        show.say(f"{REPORT / 'index.html'}: {len(page) >> 10} KiB")


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
