"""Pretrained weights as the package carries them: half precision, each with a card that says how it was made."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.settings.params import Params
from pipeline.settings.recipes import Pretraining
from pipeline.shards.seen import SEEN

CARD = "README.md"
NOT_SHIPPED = {"log.jsonl", "scores.json"}
TEXTS = {
    "shape_encoder": (
        "Michelangelo's shape encoder, small",
        (
            "Surface points with normals to a global token and latents (Zhao et al. 2023, arXiv 2306.17115). "
            "Trained to tell from the latents whether points in space are inside the solid, and to align the global "
            "token with a picture and a caption."
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
            "Writes programs in this project's CAD tokens from captions of synthetic parts; it knows no other text. "
            "In part of its training the tokens of the two encoders came before the caption, through linear maps that "
            "are not kept. What the curriculum then trains is LoRA on top of it, and projectors from nothing."
        ),
    ),
}


def ship(source: Path, target: Path, card: str) -> int:
    """Copy one pretrained folder, weights in float16, with its card.

    Returns:
        Bytes written.
    """
    with atomic_folder(target) as folder:
        for path in sorted(source.iterdir()):
            if path.suffix == ".safetensors":
                halves = {key: value.half().contiguous() for key, value in load_file(path).items()}
                save_file(halves, folder / path.name, metadata={"format": "pt"})
            elif path.name not in NOT_SHIPPED:
                shutil.copyfile(path, folder / path.name)
        config = folder / "config.json"
        document = json.loads(config.read_text(encoding="utf-8"))
        if "dtype" in document:
            write_text(config, json.dumps(document | {"dtype": "float16"}, indent=2, sort_keys=True) + "\n")
        write_text(folder / CARD, card)
    return sum(path.stat().st_size for path in target.iterdir())


def card(name: str, p: Params, recipe: Pretraining, scores: dict[str, Any]) -> str:
    """What it is, from which data, by which recipe, in which time, how good."""
    title, text = TEXTS[name]
    settings = getattr(recipe, name)
    synthetic = p.data.synthetic
    kinds = f"of {len(synthetic.families)} families"
    if synthetic.general:
        kinds = f"{1 - synthetic.general:.0%} {kinds} and {synthetic.general:.0%} of none"
    rows = [
        ("data", f"{synthetic.num_models:,} synthetic parts, seed {p.seed}, {kinds}"),
        ("never seen", ", ".join(synthetic.unseen_families) or "nothing"),
        ("recipe", ", ".join(f"{key} {value:g}" for key, value in settings.model_dump().items())),
        *((key.replace("_", " "), _score(value)) for key, value in scores.items()),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    seen = f"`{SEEN}` knows the programs that it was trained on, so that nothing is tested on these."
    made = "Made by `dvc repro` in `pretraining/`. Licence: Apache-2.0."
    return f"# {title}\n\n{text}\n\n| | |\n|---|---|\n{table}\n\n{seen} {made}\n"


def _score(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:g}" for key, number in value.items())
    return str(value)
