"""Whether the encoders' features tell models apart: clouds that find their pictures, and pictures their clouds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.encoders.alignment import AlignmentHead, retrieval
from pipeline.runtime.seeds import shuffled
from pipeline.settings.places import Folders
from pipeline.shards.reader import ShardReader


def retrieval_figures(folders: Folders, models: Path, seed: int, num_models: int) -> dict[str, Any]:
    """Retrieval among models of the corpus, all splits, from the features as they are stored.

    Returns:
        ``models``, ``shape_to_image``, ``image_to_shape``; nothing where the encoders come without heads, or the
        features hold no global token.
    """
    heads = [AlignmentHead.load(models / name) for name in ("point_cloud_encoder", "image_encoder")]
    clouds, images = (ShardReader(folders.features[m], f"features/{m}") for m in ("point_cloud", "image"))
    if heads[0] is None or heads[1] is None or clouds.manifest.details["settings"]["tokens"] == "latents":
        return {}
    own = images.find(clouds.index["key"])  # of each cloud its pictures
    both = np.flatnonzero(own >= 0)
    rows = both[shuffled(clouds.index["digest"][both], seed, "retrieval")[:num_models]]

    def read(reader: ShardReader, modality: str, row: int) -> Tensor:
        return torch.from_numpy(reader.embeddings(row, f"{modality}.npy")).float()

    with torch.inference_mode():
        shapes = torch.cat([heads[0](read(clouds, "point_cloud", row)[None, :1]) for row in rows])
        pictures = torch.cat([heads[1](read(images, "image", row).flatten(0, 1)[None]) for row in own[rows]])
    return {"models": len(rows), **retrieval(shapes.numpy(), pictures.numpy())}
