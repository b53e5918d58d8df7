"""Cards: what a model or a dataset is, what it was made from, what it cannot do, in Hugging Face's form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.model.checkpoint_folder import LINEAGE, TENSOR_FILES, CheckpointConfig, read_json
from pipeline.settings.resolved import read_models
from pipeline.shards.manifest import Manifest


def model_card(
    name: str,
    config: CheckpointConfig,
    folder: Path,
    figures: Mapping[str, Any],
    merged: bool,
    corpus: Manifest | None = None,
) -> str:
    """The card of an exported model.

    Args:
        folder: of the model, for its lineage and what lies beside it.
        figures: measured of it.
        corpus: that it was trained on, where it is at hand.
    """
    return _filled(
        "model.md.j2",
        name=name,
        config=config,
        figures=figures,
        merged=merged,
        is_text=config.model.vocabulary == "text",
        models=read_models(folder / "models"),
        lineage=read_json(folder / LINEAGE),
        trained_bytes=sum((folder / each).stat().st_size for each in TENSOR_FILES),
        **({} if corpus is None else _described(corpus)),
    )


def dataset_card(name: str, manifests: Mapping[str, Manifest]) -> str:
    """The card of an exported dataset."""
    return _filled("dataset.md.j2", name=name, manifests=manifests, **_described(manifests["corpus"]))


def _described(corpus: Manifest) -> dict[str, Any]:
    counts = corpus.details["counts"]
    splits = ", ".join(f"{split} {number:,}" for split, number in counts["splits"].items())
    return {"counts": counts, "source": corpus.details["source"], "splits": splits}


def _filled(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.ChainableUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - it is Markdown
    )
    return environment.get_template(template).render(**values)
