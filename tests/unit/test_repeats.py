"""What an edit repeats, and which parameters a stage reads: dvc.yaml says it, and a maintainer sees it here."""

from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.evaluation.real_models import TransferSections
from pipeline.evaluation.setup import EvaluateSections, RobustnessSections
from pipeline.report.settings import ReportSections
from pipeline.runtime.fingerprint import import_closure
from pipeline.settings.section import Section
from pipeline.training.settings import TrainSections
from stages.corpus import CorpusSections
from stages.features import FeaturesSections
from stages.geometry import GeometrySections
from stages.models import ModelsSections
from stages.retrieval import RetrievalSections

ROOT = Path(__file__).resolve().parents[2]

# By the folder of the edited file, or the file itself where it differs from its folder; train and evaluate are those of
# every curriculum stage.   x: the stage runs.   +: it runs where one before it does and gives another result.
TABLE = """
                                 models corpus geometry features train evaluate robustness retrieval transfer report
pipeline                           .      .       .        .       .      .         .          .        .       .
pipeline/runtime                   x      x       x        x       x      x         x          x        x       x
pipeline/settings                  x      x       x        x       x      x         x          x        x       x
pipeline/shards                    x      x       x        x       x      x         x          x        x       x
pipeline/execution                 .      x       x        x       +      x         x          +        x       +
pipeline/cad                       .      .       .        .       .      x         x          .        x       +
pipeline/cad/language              .      x       x        +       x      x         x          +        x       x
pipeline/cad/solids                .      x       x        +       +      x         x          +        x       x
pipeline/cad/solids/prisms.py      .      x       x        +       x      x         x          +        x       x
pipeline/cad/parts                 .      x       +        +       +      x         x          +        x       x
pipeline/cad/omnicad               .      x       x        +       +      x         x          +        x       +
pipeline/cad/omnicad/settings.py   .      x       x        +       +      x         x          +        x       x
pipeline/cad/exchange              .      .       .        .       .      x         x          .        x       +
pipeline/weights                   x      +       +        +       +      +         +          +        +       +
pipeline/shipped/shape_encoder     x      +       +        +       +      +         +          +        +       +
pipeline/shipped/image_encoder     x      +       +        +       +      +         +          +        +       +
pipeline/shipped/language_model    x      +       +        +       +      +         +          +        +       +
pipeline/encoders                  x      +       +        x       +      +         x          x        x       +
pipeline/corpus                    .      x       +        +       +      +         +          +        x       +
pipeline/corpus/settings.py        .      x       +        +       +      +         +          +        x       x
pipeline/geometry                  .      .       x        +       +      x         x          +        x       +
pipeline/features                  .      .       .        x       +      +         x          +        x       +
pipeline/model                     .      .       .        .       x      x         x          .        x       +
pipeline/curriculum                .      .       .        .       x      x         x          .        x       x
pipeline/decoding                  .      .       .        .       x      x         x          .        x       +
pipeline/training                  .      .       .        .       x      x         x          .        x       +
pipeline/reinforcement             .      .       .        .       x      +         +          .        +       +
pipeline/generation                .      .       .        .       .      x         x          .        x       +
pipeline/metrics                   .      .       .        .       .      x         x          .        x       x
pipeline/evaluation                .      .       .        .       .      x         x          x        x       +
pipeline/evaluation/settings.py    .      .       .        .       .      x         x          x        x       x
pipeline/report                    .      .       .        .       .      .         .          .        .       x
pipeline/exporting                 .      .       .        .       .      .         .          .        .       .
pipeline/planning                  .      .       .        .       .      .         .          .        .       .
pipeline/pretraining               .      .       .        .       .      .         .          .        .       .
pipeline/serving                   .      .       .        .       .      .         .          .        .       .
stages                             .      .       .        .       .      .         .          .        .       .
stages/models.py                   x      +       +        +       +      +         +          +        +       +
stages/corpus.py                   .      x       +        +       +      +         +          +        +       +
stages/geometry.py                 .      .       x        +       +      +         +          +        +       +
stages/features.py                 .      .       .        x       +      +         +          +        +       +
stages/train.py                    .      .       .        .       x      +         +          .        +       +
stages/evaluate.py                 .      .       .        .       .      x         .          .        .       +
stages/robustness.py               .      .       .        .       .      .         x          .        .       +
stages/retrieval.py                .      .       .        .       .      .         .          x        .       +
stages/transfer.py                 .      .       .        .       .      .         .          .        x       +
stages/report.py                   .      .       .        .       .      .         .          .        .       x
"""
HEADER, *LINES = TABLE.strip().splitlines()
STAGES = HEADER.split()
REPEATED = {path: dict(zip(STAGES, marks, strict=True)) for path, *marks in map(str.split, LINES)}
# To Weights & Biases, on the report's page, and to say where shards go: nothing is computed from them.
TOLD = {"preset", "tracking", "storage"}
READ = {
    "models": ModelsSections,
    "corpus": CorpusSections,
    "geometry": GeometrySections,
    "features": FeaturesSections,
    "train": TrainSections,
    "evaluate": EvaluateSections,
    "robustness": RobustnessSections,
    "retrieval": RetrievalSections,
    "transfer": TransferSections,
    "report": ReportSections,
}


def line_of(file):
    """The most exact line of the table for a file."""
    return max((path for path in REPEATED if file == path or file.startswith(f"{path}/")), key=len)


@cache
def pipeline_graph():
    """DVC's own: from each stage to those whose outs it depends on."""
    from dvc.repo import Repo

    graph = Repo(ROOT).index.graph
    return graph.subgraph([stage for stage in graph if stage.path_in_repo == "dvc.yaml"])


def repeated(file):
    """What follows from an edit of one file, as the table has it."""
    import networkx as nx

    graph = pipeline_graph()
    runs = {
        stage
        for stage in graph
        for dep in stage.deps
        if file == dep.def_path or file.startswith(f"{dep.def_path}/")
    }  # fmt: skip
    follows = {later for stage in runs for later in nx.ancestors(graph, stage)}
    marks = {}
    for name in STAGES:
        own = {stage for stage in graph if stage.addressing.partition("@")[0] == name}
        marks[name] = "x" if own & runs else "+" if own & follows else "."
        assert own
        assert own <= runs or not own & runs, f"{file}: not all of {name}"
    return marks


def test_an_edit_repeats_what_it_can_change():
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline", "stages")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {file: repeated(file) for file in files} == {file: REPEATED[line_of(file)] for file in files}
    assert {line_of(file) for file in files} == set(REPEATED)


def test_nothing_is_encoded_for_training_and_nothing_trained_for_what_follows():
    training = ("model", "curriculum", "decoding", "reinforcement", "training")
    after = ("generation", "metrics", "evaluation", "report", "planning")
    for rooms, left_alone in ((training, STAGES[:4]), (after, STAGES[:5])):
        for path in (path for path in REPEATED for room in rooms if f"{path}/".startswith(f"pipeline/{room}/")):
            assert {REPEATED[path][stage] for stage in left_alone} == {"."}, path


def test_half_done_training_depends_on_the_code_of_its_objective():
    """Scratch can tell what dvc.yaml cannot."""
    tokens, geometry = map(import_closure, ("pipeline.training.session", "pipeline.reinforcement.geometry"))
    assert tokens < geometry
    own = {
        name
        for name in geometry
        if name.startswith(("pipeline.decoding.", "pipeline.reinforcement.", "pipeline.cad.solids."))
    }
    assert {"pipeline.decoding.generate", "pipeline.cad.solids.prisms"} < own
    assert not own & tokens


def parameters(sections):
    """What is read, as dvc.yaml names it: sections, and of a section that is read in part its keys."""
    for name, field in sections.model_fields.items():
        kind = field.annotation
        in_part = isinstance(kind, type) and issubclass(kind, Section) and kind.model_config["extra"] == "ignore"
        yield from (f"{name}.{key}" for key in kind.model_fields) if in_part else (name,)


def test_a_stage_reads_the_parameters_that_it_names():
    entries = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    named = {stage: entry.get("do", entry)["params"] for stage, entry in entries.items()}
    wanted = {stage: {name.partition(".${")[0] for name in names} - TOLD for stage, names in named.items()}
    assert {stage: set(parameters(sections)) - TOLD for stage, sections in READ.items()} == wanted
