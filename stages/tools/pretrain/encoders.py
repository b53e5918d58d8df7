"""``cadmllm pretrain shape-encoder`` and ``image-encoder``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.pretraining.settings import ImagePretraining
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.commands import long_running
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.runtime.progress import Display, display
from pipeline.runtime.scratch import clean, work_folder
from pipeline.settings.places import MODELS
from pipeline.settings.resolved import read_models
from stages.tools.pretrain.common import (
    ALIGNED,
    ENCODERS,
    IMAGE_ENCODER,
    MAX_TEST_MODELS,
    RECONSTRUCTION,
    SCORES,
    SHAPE_ENCODER,
    geometry_inputs,
    require,
    settings,
    shape_data,
    speed_log,
)

if TYPE_CHECKING:
    import numpy as np

    from pipeline.planning.params import Params
    from pipeline.pretraining.data import ShapeData
    from pipeline.pretraining.images import ImageTraining


@long_running
def shape_encoder() -> None:
    """Train both encoders: solids are read back from clouds; clouds, pictures and captions find each other."""
    p, recipe = settings()
    models = read_models(MODELS)
    inputs = geometry_inputs() | {name: models[name]["sha256"] for name in ("image_encoder", "point_cloud_encoder")}
    import torch

    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.loop import LOG, Pretrainer
    from pipeline.pretraining.shapes import ShapeBatches, ShapeTraining, occupancy_scores
    from pipeline.shards.seen import write_seen

    described = {"recipe": recipe.shape_encoder, "pool": recipe.image_encoder.pool, "seed": p.seed}
    described["embedding_width"] = recipe.embedding_width
    with (
        display("pretrain shape-encoder") as show,
        work_folder("pretrain-shape-encoder", __name__, described, inputs) as scratch,
    ):
        images = DinoV2Encoder(MODELS / "image_encoder", recipe.image_encoder.pool)
        shapes = MichelangeloEncoder.from_pretrained(MODELS / "point_cloud_encoder")
        torch.manual_seed(p.seed)
        module = ShapeTraining(shapes, images, recipe.shape_encoder, recipe.embedding_width)
        data, test = shape_data("train", p.seed), shape_data("test", p.seed)
        batches = ShapeBatches(data, images, recipe.shape_encoder)
        log = speed_log("shape_encoder")
        Pretrainer(module, recipe.shape_encoder, p.seed, batches, module.loss, scratch, log, show).run()
        scores = occupancy_scores(module, test, range(min(len(test), MAX_TEST_MODELS)))
        with atomic_folder(ALIGNED) as folder:
            module.save(folder / SHAPE_ENCODER, folder / IMAGE_ENCODER)
            write_seen(folder / SHAPE_ENCODER, program_hashes(data.corpus, data.rows))
            write_text(folder / SCORES, json.dumps(scores, indent=1, sort_keys=True) + "\n")
            write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))
        clean(scratch)
        show.say(", ".join(f"{name} {value}" for name, value in scores.items()))


@long_running
def image_encoder() -> None:
    """Train the image encoder on: from pictures it learns the tokens of the finished point cloud encoder."""
    p, recipe = settings()
    require(ALIGNED, RECONSTRUCTION)
    described = {"recipe": recipe.image_encoder, "seed": p.seed, "num_points": p.geometry.num_points}
    folders = {"aligned": ALIGNED, "shapes": RECONSTRUCTION / SHAPE_ENCODER}
    inputs = geometry_inputs() | {name: sha256_folder(folder) for name, folder in folders.items()}
    import torch

    from pipeline.encoders.alignment import AlignmentHead
    from pipeline.encoders.dinov2 import DinoV2Encoder
    from pipeline.encoders.michelangelo import MichelangeloEncoder
    from pipeline.pretraining.data import program_hashes
    from pipeline.pretraining.encoded import encode_clouds
    from pipeline.pretraining.images import ImageBatches, ImageTraining, retrieval_scores
    from pipeline.pretraining.loop import LOG, Pretrainer
    from pipeline.pretraining.shapes import save_image_encoder
    from pipeline.shards.seen import read_seen, write_seen

    with (
        display("pretrain image-encoder") as show,
        work_folder("pretrain-image-encoder", __name__, described, inputs) as scratch,
    ):
        images = DinoV2Encoder(ALIGNED / IMAGE_ENCODER, recipe.image_encoder.pool)
        shapes = MichelangeloEncoder.from_pretrained(RECONSTRUCTION / SHAPE_ENCODER).eval()
        image_head, shape_head = (AlignmentHead.load(ALIGNED / name) for name in (IMAGE_ENCODER, SHAPE_ENCODER))
        assert image_head is not None, "shape-encoder writes it"
        assert shape_head is not None, "shape-encoder writes it"
        data, test = shape_data("train", p.seed), shape_data("test", p.seed)
        clouds = encode_clouds(shapes, data, p.geometry.num_points, scratch / "clouds.npy", show)
        sample = torch.from_numpy(clouds[:4096]).float()
        mean, std = sample.mean(dim=0), sample.std(dim=0) + 1e-3
        torch.manual_seed(p.seed)
        module = ImageTraining(images, image_head, shape_head, data.num_views, recipe.image_encoder, mean, std)
        batches, log = ImageBatches(data, images, clouds, recipe.image_encoder), speed_log("image_encoder")
        Pretrainer(module, recipe.image_encoder, p.seed, batches, module.loss, scratch, log, show).run()
        train_heads(p, recipe.image_encoder, module, data, clouds, scratch, show)
        heads = ((shapes, module.shape_head), (images, module.image_head))
        found = retrieval_scores(*heads, test, range(min(len(test), MAX_TEST_MODELS)), p.geometry.num_points)
        seen = program_hashes(data.corpus, data.rows)
        with atomic_folder(ENCODERS) as folder:
            shapes.save_pretrained(folder / SHAPE_ENCODER)
            module.shape_head.save(folder / SHAPE_ENCODER)
            write_seen(folder / SHAPE_ENCODER, seen | read_seen(RECONSTRUCTION / SHAPE_ENCODER))
            save_image_encoder(images, module.image_head, folder / IMAGE_ENCODER)
            write_seen(folder / IMAGE_ENCODER, seen)
            write_text(folder / SCORES, json.dumps(found, indent=1, sort_keys=True) + "\n")
            write_text(folder / LOG, (scratch / LOG).read_text(encoding="utf-8"))
        clean(scratch)
        show.say(f"retrieval among {found['models']} unseen models: {found}")


def train_heads(
    p: "Params",
    recipe: ImagePretraining,
    module: "ImageTraining",
    data: "ShapeData",
    clouds: "np.ndarray",
    scratch: Path,
    show: Display,
) -> None:
    """Train the heads on, encoders finished."""
    import numpy as np

    from pipeline.pretraining.encoded import encode_views
    from pipeline.pretraining.images import HeadBatches, HeadTraining
    from pipeline.pretraining.loop import Pretrainer

    every = np.tile(np.arange(data.num_views), (len(data), 1))
    pictures = encode_views(module.images, data, every, scratch / "views.npy", show)
    heads = HeadTraining(module.shape_head, module.image_head)
    batches, log = HeadBatches(clouds, pictures, recipe.heads.batch_size, p.seed), speed_log("heads")
    Pretrainer(heads, recipe.heads, p.seed, batches, heads.loss, scratch / "heads", log, show).run()
