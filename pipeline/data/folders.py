"""Where one set of models is kept."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """Captions and programs, clouds and views, embeddings by modality."""

    corpus: Path
    geometry: Path
    features: dict[str, Path]
