"""The report: one HTML page that needs nothing else, and tables over all stages for ``dvc plots``."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.curriculum.advice import flat_loss_advice
from pipeline.curriculum.retention import lineage_chain, retention_advice
from pipeline.curriculum.settings import COMBINATIONS
from pipeline.metrics.statistics import COMPLETION, valid_share
from pipeline.report.behaviour import behaviour
from pipeline.report.charts import disturbance_chart, line_chart, shown
from pipeline.report.gallery import Gallery, gallery, meshes_json
from pipeline.report.pictures import TICKS, colour_map, gradient
from pipeline.report.settings import ReportSections
from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "report.html.j2"
VIEWER = ("pane.js", "viewer.js")
REAL_EACH = 3  # real models in each part of their gallery

# From the paper of CAD-MLLM (Xu et al. 2024, 2411.04954), as printed: chamfer, F-score, normal consistency and flux
# times 100, self-intersection in percent.
PAPER = (
    ("point cloud only", 1.85, 90.88, 79.71, 1.66, 0.46, 1.31, 0.044),
    ("multimodal model, point input", 2.63, 85.17, 73.64, 1.53, 0.47, 1.32, 0.035),
    ("image only", 3.77, 76.70, 59.62, 1.97, 0.79, 2.07, 0.063),
    ("multimodal model, image input", 3.22, 80.82, 62.07, 1.56, 0.51, 1.36, 0.050),
    ("DeepCAD, point input", 4.51, 71.83, 63.68, 8.98, 1.26, 5.73, 0.347),
)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What one curriculum stage left behind.

    Attributes:
        log: lines of its training log.
        lineage: its checkpoint's.
        training: its training figures.
        evaluation: its evaluation figures.
        generated: lines of its generated.jsonl.
        pictures: where its pictures are.
    """

    name: str
    log: list[dict[str, Any]]
    lineage: dict[str, Any]
    training: dict[str, Any]
    evaluation: dict[str, Any]
    generated: list[dict[str, Any]]
    pictures: Path


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """What went in.

    Attributes:
        corpus: the corpus manifest's details.
        rejects: reasons and counts, by pipeline stage.
        models: the models manifest.
        robustness: figures by disturbance and level.
        retrieval: how well clouds and pictures find each other; empty where the encoders come without heads.
        transfer: figures on real models, as of an evaluation; empty where there are none. Their pictures.
        no_transfer: why there are none.
    """

    corpus: dict[str, Any]
    rejects: dict[str, dict[str, int]]
    models: dict[str, Any]
    robustness: dict[str, dict[str, Any]]
    retrieval: dict[str, Any]
    transfer: dict[str, Any]
    transfer_pictures: Path
    no_transfer: str


Table = tuple[list[str], list[list[Any]]]


def plot_tables(results: list[StageResult]) -> dict[str, Table]:
    """Tables over all stages for ``dvc plots``: training loss, and validation loss of each combination.

    The training loss is that of target tokens: stages with another objective are left out.
    """
    train: list[list[Any]] = []
    validation: list[list[Any]] = []
    for start, result in _with_starts(results):
        for line in result.log:
            if line["event"] == "train" and "num_targets" in line:
                train.append([start + line["step"], result.name, line["loss"]])
            elif line["event"] == "validation":
                validation += [[start + line["step"], result.name, name, loss] for name, loss in line["loss"].items()]
    return {
        "train_loss": (["step", "stage", "loss"], train),
        "validation_loss": (["step", "stage", "combination", "loss"], validation),
    }


def _with_starts(results: list[StageResult]) -> list[tuple[int, StageResult]]:
    """Each result with the number of optimizer steps before it."""
    starts, done = [], 0
    for result in results:
        starts.append((done, result))
        done += int(result.training["steps"])
    return starts


def render(params: ReportSections, results: list[StageResult], inputs: ReportInputs) -> str:
    """The page."""
    last = results[-1]
    ranked_by = list(last.evaluation["combinations"])[-1]
    real_ranked_by = _from_scans(list(inputs.transfer["combinations"])) if inputs.transfer else ""
    parts, real = _galleries(last, inputs, ranked_by, real_ranked_by)
    trained = {result.name: result.training["trainable_parameters"] for result in results}
    return _template().render(
        params=params,
        written=json.dumps(params.with_document(), indent=1),
        results=results,
        last=last,
        validity=valid_share(last.evaluation["combinations"]),
        inputs=inputs,
        forgotten=retention_advice(last.training["retention_text"], params, last.name),
        flat=[advice for result in results if (advice := flat_loss_advice(result.log, params, result.name))],
        behaviour=behaviour(params, {result.name: result.log for result in results}, trained, inputs.models),
        untrained=[name for name, entry in inputs.models.items() if not entry["pretrained"]],
        paper=PAPER,
        **_charts(results, inputs),
        gallery=parts,
        real=real,
        meshes=meshes_json([*parts.values(), *real.values()]),
        ranked_by=ranked_by,
        real_ranked_by=real_ranked_by,
        colours=base64.b64encode(colour_map().tobytes()).decode(),
        ticks=[f"{tick:g}" for tick in TICKS],
        gradient=gradient(),
        chains=[(result.name, lineage_chain(result.lineage)) for result in results],
        viewer="\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in VIEWER),
    )


def _template() -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "times": _times, "shown": _shown}
    return environment.get_template(TEMPLATE)


def _galleries(last: StageResult, inputs: ReportInputs, ranked_by: str, real_ranked_by: str) -> tuple[Gallery, Gallery]:
    """Test models of the corpus, and real ones where there are some; these, or else those, with their programs told."""
    real, bits = inputs.transfer_pictures, inputs.corpus["codec"]["bits"]
    if not inputs.transfer:
        return gallery(last.generated, last.pictures, ranked_by, bits=bits), {}
    return (
        gallery(last.generated, last.pictures, ranked_by),
        gallery(read_generated(real), real, real_ranked_by, REAL_EACH, bits),
    )


def _from_scans(combinations: list[str]) -> str:
    """The combination that shows points and the least besides; the last one where none does."""
    scans = [name for name in combinations if "point_cloud" in name]
    return min(scans, key=lambda name: name.count("+"), default=combinations[-1])


def _charts(results: list[StageResult], inputs: ReportInputs) -> dict[str, str]:
    """SVG by the template's names for it."""
    tables = plot_tables(results)
    boundaries = [(start, result.name) for start, result in _with_starts(results)]
    train = [(step, loss) for step, _, loss in tables["train_loss"][1]]
    validation = {
        name: points
        for name in COMBINATIONS
        if (points := [(step, loss) for step, _, shows, loss in tables["validation_loss"][1] if shows == name])
    }
    rewards: dict[str, list[tuple[float, float]]] = {}
    for start, result in _with_starts(results):
        for line in result.log:
            for name, reward in line.get("reward", {}).items() if line["event"] == "validation" else ():
                rewards.setdefault(name, []).append((start + line["step"], reward))
    return {
        "train_chart": line_chart({"loss": train}, "training loss", boundaries, smooth=True),
        "validation_chart": line_chart(validation, "validation loss", boundaries),
        "reward_chart": line_chart(rewards, "reward in validation", boundaries) if rewards else "",
        "robustness_chart": disturbance_chart(inputs.robustness) if inputs.robustness else "",
    }


def _shown(name: str) -> str:
    """A column of the gallery."""
    return "first half given" if name == COMPLETION else shown(name)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _times(value: float | None, factor: float, digits: int = 2) -> str:
    """A value in the paper's unit."""
    return "–" if value is None else f"{value * factor:.{digits}f}"


def read_generated(folder: Path) -> list[dict[str, Any]]:
    """Lines of an evaluation's ``generated.jsonl``."""
    return [json.loads(line) for line in (folder / "generated.jsonl").read_text(encoding="utf-8").splitlines()]


def read_result(name: str, checkpoint: Path, metrics: Path, evaluations: Path) -> StageResult:
    """Collect what a curriculum stage left behind.

    Raises:
        UserError: part of it is missing.
    """
    from pipeline.curriculum.log import read_log

    def read_json(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    try:
        return StageResult(
            name,
            list(read_log(checkpoint / "log.jsonl")),
            read_json(checkpoint / "lineage.json"),
            read_json(metrics / "train" / f"{name}.json"),
            read_json(metrics / "evaluate" / f"{name}.json"),
            read_generated(evaluations),
            evaluations,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing; run `cadmllm train {name}` and `cadmllm evaluate {name}`"
        ) from error
