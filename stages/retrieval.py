"""The pipeline stage ``retrieval``: how well the encoders' features tell models apart."""

import json

from pipeline.runtime.atomic import write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.progress import display
from pipeline.settings.params import Sections
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY, METRICS, MODELS, Folders
from pipeline.settings.resolved import read_models
from pipeline.settings.section import Seed
from pipeline.shards.manifest import Manifest


class RetrievalSections(Sections):
    """What ``retrieval`` reads of params.yaml."""

    seed: Seed


@long_running
def retrieval() -> None:
    """How often a cloud finds its own pictures among those of 500 models, and pictures their cloud."""
    p = RetrievalSections.load()
    folders = Folders(CORPUS, GEOMETRY, {modality: FEATURES / modality for modality in ("image", "point_cloud")})
    read_models(MODELS)
    Manifest.read(CORPUS, "corpus")
    for modality, folder in folders.features.items():
        Manifest.read(folder, f"features/{modality}")
    from pipeline.evaluation.retrieval import retrieval_figures

    with display("retrieval") as show:
        found = retrieval_figures(folders, MODELS, p.seed, num_models=500)
        write_text(METRICS / "retrieval.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
        if found:
            to_image, to_shape = found["shape_to_image"], found["image_to_shape"]
            shares = f"top 5: cloud to image {to_image['top5']:.0%}, image to cloud {to_shape['top5']:.0%}"
            show.say(f"{found['models']} models, {shares}")
        else:
            show.say("the encoders come without heads for it")
