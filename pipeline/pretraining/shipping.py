"""Pretrained weights as the package carries them: half precision, each with a card that says how it was made."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.corpus.settings import Synthetic
from pipeline.pretraining.settings import Pretraining
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.state_dicts import damage_told, read_safetensors
from pipeline.shards.seen import SEEN

CARD = "README.md"
NOT_SHIPPED = {"log.jsonl", "scores.json"}
TEXTS = {
    "shape_encoder": (
        "Michelangelo's shape encoder, small",
        (
            "Surface points with normals to a global token and latents (Zhao et al. 2023, arXiv 2306.17115). "
            "Trained to tell from the latents whether points in space are inside the solid, and to align the global "
            "token with a picture and a caption; then, together with the language model, to show it what program a "
            "scan is of: noisy, uneven, with holes, of few points."
        ),
    ),
    "image_encoder": (
        "A DINOv2-architecture ViT, small",
        (
            "Shaded views to patch tokens. Trained together with the shape encoder, then to tell the tokens that the "
            "finished shape encoder gives for the same solid. No substitute for DINOv2 on photographs."
        ),
    ),
    "language_model": (
        "A small causal language model of captions and CAD programs",
        (
            "Writes programs in this project's CAD tokens from scans, from pictures and from captions of synthetic "
            "parts, in any combination; it knows no other text. The projectors of both encoders' tokens are beside it: "
            "with these encoders, the curriculum begins with them, and trains them and LoRA."
        ),
    ),
}


def ship(source: Path, target: Path, card: str) -> int:
    """Copy one pretrained folder, weights in float16, with its card.

    Returns:
        Bytes written.
    """
    with atomic_folder(target) as folder:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            copied = folder / path.relative_to(source)
            copied.parent.mkdir(exist_ok=True)
            if path.suffix == ".safetensors":
                _halve(path, copied)
            elif path.name not in NOT_SHIPPED:
                shutil.copyfile(path, copied)
        config = folder / "config.json"
        document = json.loads(config.read_text(encoding="utf-8"))
        if "dtype" in document:
            write_text(config, json.dumps(document | {"dtype": "float16"}, indent=2, sort_keys=True) + "\n")
        write_text(folder / CARD, card)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _halve(path: Path, copied: Path) -> None:
    with damage_told(path), safe_open(path, "pt") as file:
        metadata = {"format": "pt", **(file.metadata() or {})}
    save_file(
        {key: value.half().contiguous() for key, value in read_safetensors(path).items()}, copied, metadata=metadata
    )


def card(name: str, synthetic: Synthetic, seed: int, recipe: Pretraining, scores: dict[str, Any]) -> str:
    """What it is, from which data, by which recipe, in which time, how good."""
    title, text = TEXTS[name]
    settings = getattr(recipe, name)
    kinds = f"of {len(synthetic.families)} families"
    if synthetic.general:
        kinds = f"{1 - synthetic.general:.0%} {kinds} and {synthetic.general:.0%} of none"
    rows = [
        ("data", f"{synthetic.num_models:,} synthetic parts, seed {seed}, {kinds}"),
        ("never seen", ", ".join(synthetic.unseen_families) or "nothing"),
        ("recipe", _score(settings.model_dump())),
        *((key.replace("_", " "), _score(value)) for key, value in scores.items()),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    seen = f"`{SEEN}` knows the programs that it was trained on, so that nothing is tested on these."
    made = "Made by `dvc repro` in `pretraining/`. Licence: Apache-2.0."
    return f"# {title}\n\n{text}\n\n| | |\n|---|---|\n{table}\n\n{seen} {made}\n"


def _score(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_score(number)}" for key, number in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
