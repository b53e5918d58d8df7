"""The report: one HTML page that needs nothing else, and the summary that DVC tracks as a metric."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation.charts import line_chart
from pipeline.params import COMBINATIONS, Params
from pipeline.training.retention import retention_advice

TEMPLATE = "report.html.j2"
GALLERY_SIZE = 12


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one curriculum stage left behind.

    Attributes:
        log: lines of its training log.
        training: its training figures.
        evaluation: its evaluation figures.
        generated: lines of its generated.jsonl.
        pictures: where its pictures are.
    """

    name: str
    log: list[dict[str, Any]]
    training: dict[str, Any]
    evaluation: dict[str, Any]
    generated: list[dict[str, Any]]
    pictures: Path


def summary(results: list[StageResult]) -> dict[str, Any]:
    """The figures that experiments are compared by: the last stage's, and text-only retention."""
    last = results[-1].evaluation["combinations"]
    counted = sum(figures["num_models"] for figures in last.values())
    return {
        "validity": sum(figures["valid_rate"] * figures["num_models"] for figures in last.values()) / counted,
        "validation_loss": {name: figures["validation_loss"] for name, figures in last.items()},
        "chamfer_median": {name: figures["chamfer_l1_mean_median"] for name, figures in last.items()},
        "chamfer_bounds": results[-1].evaluation["chamfer_l1_mean_bounds"],
        "retention_text": results[-1].training["retention_text"],
    }


def plot_rows(results: list[StageResult]) -> dict[str, list[dict[str, Any]]]:
    """Rows over all stages for ``dvc plots``: training loss, and validation loss of each combination."""
    train, validation = [], []
    for start, result in _with_starts(results):
        for line in result.log:
            if line["event"] == "train":
                train.append({"step": start + line["step"], "stage": result.name, "loss": line["loss"]})
            elif line["event"] == "validation":
                validation += [
                    {"step": start + line["step"], "stage": result.name, "combination": name, "loss": loss}
                    for name, loss in line["loss"].items()
                ]
    return {"train_loss": train, "validation_loss": validation}


def _with_starts(results: list[StageResult]) -> list[tuple[int, StageResult]]:
    """Each result with the number of optimizer steps before it."""
    starts, done = [], 0
    for result in results:
        starts.append((done, result))
        done += int(result.training["steps"])
    return starts


def render(
    params: Params,
    results: list[StageResult],
    corpus: dict[str, Any],
    rejects: dict[str, dict[str, int]],
    models: dict[str, Any],
) -> str:
    """The page.

    Args:
        corpus: the corpus manifest's details.
        rejects: reasons and counts, by step.
        models: the models manifest.
    """
    import jinja2

    rows = plot_rows(results)
    boundaries = [(start, result.name) for start, result in _with_starts(results)]
    validation = {
        name: [(row["step"], row["loss"]) for row in rows["validation_loss"] if row["combination"] == name]
        for name in COMBINATIONS
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    return environment.get_template(TEMPLATE).render(
        params=params,
        results=results,
        summary=summary(results),
        corpus=corpus,
        rejects=rejects,
        models=models,
        forgotten=retention_advice(results[-1].training["retention_text"], params, results[-1].name),
        untrained=[name for name, entry in models.items() if not entry["pretrained"]],
        combinations=COMBINATIONS,
        train_chart=line_chart(
            {"loss": [(row["step"], row["loss"]) for row in rows["train_loss"]]},
            "training loss",
            boundaries,
            smooth=True,
        ),
        validation_chart=line_chart({k: v for k, v in validation.items() if v}, "validation loss", boundaries),
        gallery=gallery(results[-1]),
    )


def gallery(result: StageResult) -> list[dict[str, Any]]:
    """Test models with the true picture and what each combination made of them."""
    models: dict[str, dict[str, Any]] = {}
    for line in result.generated:
        model = models.setdefault(
            line["key"],
            {
                "id": line["id"],
                "caption": line["caption"],
                "attempts": [],
                "true": _data_uri(result.pictures / f"{line['key']}.true.png"),
            },
        )
        attempt = {"combination": line["combination"], "valid": line["valid"], "reason": line.get("reason", "")}
        if line["valid"]:
            attempt["picture"] = _data_uri(result.pictures / f"{line['key']}.{line['combination']}.png")
            attempt["chamfer"] = line["chamfer_l1_mean"]
        model["attempts"].append(attempt)
    return list(models.values())[:GALLERY_SIZE]


def _data_uri(path: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run `cadmllm evaluate {path.parent.name}` again") from error


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def read_result(name: str, checkpoint: Path, metrics: Path, evaluations: Path) -> StageResult:
    """Collect what a curriculum stage left behind.

    Raises:
        UserError: part of it is missing.
    """
    from pipeline.training.tracking import read_log

    try:
        return StageResult(
            name,
            list(read_log(checkpoint / "log.jsonl")),
            json.loads((metrics / "train" / f"{name}.json").read_text(encoding="utf-8")),
            json.loads((metrics / "evaluate" / f"{name}.json").read_text(encoding="utf-8")),
            [json.loads(line) for line in (evaluations / "generated.jsonl").read_text(encoding="utf-8").splitlines()],
            evaluations,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing; run `cadmllm train {name}` and `cadmllm evaluate {name}`"
        ) from error
