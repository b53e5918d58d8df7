"""Where inputs and outs lie, from the project's folder: what dvc.yaml says, for the commands."""

from dataclasses import dataclass
from pathlib import Path

MODELS = Path("models")
CORPUS = Path("data/corpus")
GEOMETRY = Path("data/geometry")
FEATURES = Path("data/features")
CHECKPOINTS = Path("checkpoints")
EVALUATIONS = Path("evaluations")
METRICS = Path("metrics")
PLOTS = Path("plots")
REPORT = Path("report")
TRANSFER = "transfer"  # real models, among the evaluations
SKIPPED = "skipped.txt"  # there, where nothing was measured: why
PRETRAINED = Path("pretrained")
LOGS = Path("logs")  # how fast things went: part of no result
SHIPPED = Path(__file__).resolve().parents[1] / "shipped"  # networks that the package carries, with their cards
SHIPPED_PARAMS = SHIPPED / "params.yaml"  # those of params.yaml that they are used with


@dataclass(frozen=True, slots=True)
class Folders:
    """Where one set of models is kept: captions and programs, clouds and views, embeddings by modality."""

    corpus: Path
    geometry: Path
    features: dict[str, Path]
