"""The curriculum with and without each of its options, on a small scale: prints one JSON object.

    python benchmarks/curriculum.py [--models 320] [--epochs 6] [--seeds 2] [--folder DIR]

Every variant is trained by ``cadmllm train`` on the same synthetic parts and features, for the same number of samples
shown (the dynamic curriculum may take fewer), with a language model of three layers and untrained encoders. For each
variant: the last stage's validation loss by combination, and how many samples were shown; means over seeds, and the
spread between seeds that differences have to be judged by.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import presets

ROOT = Path(__file__).resolve().parents[1]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL = {"text": 0.2, "text+point_cloud": 0.3, "text+image": 0.2, "text+point_cloud+image": 0.3}
Document = dict[str, Any]


def base(num_models: int, epochs: int) -> Document:
    """The smoke preset with more models, a larger network and longer stages."""
    document: Document = presets.compose("smoke")
    document["data"]["synthetic"]["num_models"] = num_models
    document["data"]["split"] = {"validation": 0.15, "test": 0.05}
    document["data"]["shard_size"] = 128
    models, model = document["models"], document["model"]
    models["llm"]["architecture"].update(
        hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    models["image_encoder"]["architecture"].update(hidden_size=48, num_hidden_layers=2)
    models["point_cloud_encoder"]["architecture"].update(width=32, num_latents=7)
    model["lora"].update(r=32, alpha=64, target_modules=LINEAR)
    model["projectors"]["point_cloud"]["hidden"] = model["projectors"]["image"]["hidden"] = 128
    document["training"].update(
        tokens_per_batch=2048, max_batch_size=16, max_validation_samples=64, save_every=1000, validate_every_epochs=1
    )
    for stage in document["curriculum"].values():
        stage.update(epochs=epochs, lr=3e-3)
    return document


def direct(document: Document) -> None:
    """All modalities from the start, for as many samples."""
    stages = document["curriculum"]
    last = stages["stage3_all"]
    epochs = sum(stage["epochs"] for stage in stages.values())
    document["curriculum"] = {"direct": {**last, "init_from": "models/llm", "epochs": epochs}}


def dynamic(document: Document) -> None:
    """Stages end when their validation loss stops improving."""
    for stage in document["curriculum"].values():
        stage["early_stopping"] = {"patience": 1, "min_delta": 0.005, "min_epochs": 2}


def dropout(document: Document) -> None:
    """A tenth of the clouds and pictures is left out."""
    document["curriculum"]["stage2_text_pc"]["modality_dropout"] = {"point_cloud": 0.1}
    document["curriculum"]["stage3_all"]["modality_dropout"] = {"point_cloud": 0.1, "image": 0.1}


def adaptive(document: Document) -> None:
    """Projectors learn at rates of their own."""
    document["training"]["projector_lr_adaptation"] = 0.5


def scheduling(document: Document) -> None:
    """A stage begins with the mixture of the one before and ends with its own."""
    stages = document["curriculum"]
    stages["stage2_text_pc"].update(
        modality_sample_probs={"text": 0.6, "text+point_cloud": 0.4},
        final_modality_sample_probs={"text": 0.1, "text+point_cloud": 0.9},
    )
    first = {"text": 0.2, "text+point_cloud": 0.6, "text+image": 0.1, "text+point_cloud+image": 0.1}
    stages["stage3_all"].update(modality_sample_probs=first, final_modality_sample_probs=ALL)


VARIANTS: dict[str, Callable[[Document], None]] = {
    "curriculum": lambda _: None,
    "direct": direct,
    "dynamic_curriculum": dynamic,
    "modality_dropout": dropout,
    "adaptive_projector_lr": adaptive,
    "curriculum_scheduling": scheduling,
}


def run(*arguments: str) -> None:
    """A command of the pipeline in the current folder."""
    done = subprocess.run([sys.executable, "-m", "stages.cli", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"cadmllm {' '.join(arguments)} failed:\n{done.stderr}")


def train(change: Callable[[Document], None], num_models: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train one variant; the losses after its last stage, and the samples shown in all."""
    document = base(num_models, epochs)
    change(document)
    document["seed"] = seed  # of training alone: data and encoders are made already
    presets.write(document, Path("params.yaml"))
    shown, figures = 0, {}
    for name in document["curriculum"]:
        run("train", name)
        figures = json.loads((Path("metrics/train") / f"{name}.json").read_text(encoding="utf-8"))
        shown += figures["samples_shown"]
    return {"validation": figures["validation"], "samples_shown": shown, "retention_text": figures["retention_text"]}


def mean(values: list[float]) -> dict[str, float]:
    """Over seeds, with the distance between the highest and the lowest."""
    return {"mean": round(statistics.fmean(values), 4), "spread": round(max(values) - min(values), 4)}


def main(num_models: int, epochs: int, num_seeds: int) -> dict[str, Any]:
    """All variants, one after the other."""
    presets.write(base(num_models, epochs), Path("params.yaml"))
    for command in ("models", "corpus", "geometry", "features --modality image", "features --modality point_cloud"):
        run(*command.split())
    results = {}
    for name, change in VARIANTS.items():
        found = [train(change, num_models, epochs, seed) for seed in range(num_seeds)]
        results[name] = {
            "validation": {
                combination: mean([each["validation"][combination] for each in found])
                for combination in found[0]["validation"]
            },
            "samples_shown": statistics.fmean(each["samples_shown"] for each in found),
        }
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    return {"models": num_models, "epochs_per_stage": epochs, "seeds": num_seeds, "variants": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where it works; default: a temporary folder")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "presets").exists():
            (folder / "presets").symlink_to(ROOT / "presets")
        os.chdir(folder)
        print(json.dumps(main(given.models, given.epochs, given.seeds)))
