"""One space for clouds and pictures: an encoder's head into it, and how well one finds the other.

Shapes: B models, T tokens, W an encoder's width, E the space's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.runtime.errors import UserError
from pipeline.runtime.state_dicts import check_fit, read_safetensors

ALIGNMENT = "alignment.safetensors"  # beside an encoder's weights


class AlignmentHead(nn.Module):
    """The mean of a model's tokens, projected: (B, T, W) to unit vectors (B, E)."""

    def __init__(self, width: int, embedding_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, embedding_width, bias=False)

    def forward(self, tokens_BTW: Tensor) -> Tensor:
        """(B, T, W) tokens to (B, E), each of length 1."""
        return F.normalize(self.project(self.norm(tokens_BTW.mean(dim=1))), dim=-1)

    def save(self, folder: Path) -> None:
        """Write the head beside its encoder."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / ALIGNMENT)

    @classmethod
    def load(cls, folder: Path) -> "AlignmentHead | None":
        """The head beside an encoder, or None where it has none."""
        path = folder / ALIGNMENT
        if not path.is_file():
            return None
        tensors = read_safetensors(path)
        try:
            embedding_width, width = tensors["project.weight"].shape
        except KeyError as error:
            raise UserError(f"{path}: no project.weight in it") from error
        head = cls(width, embedding_width)
        check_fit(head.state_dict(), tensors, str(path), "an alignment head")
        head.load_state_dict({name: value.float() for name, value in tensors.items()})
        return head.eval()


def retrieval(first: np.ndarray, second: np.ndarray, top: Sequence[int] = (1, 5)) -> dict[str, dict[str, float]]:
    """How often a model's partner is among the nearest ones.

    Args:
        first, second: (M, E) unit vectors of shapes and of images of the same models.

    Returns:
        ``shape_to_image`` and ``image_to_shape``: shares by ``top1``, ``top5``.
    """
    near = first @ second.T
    found: dict[str, dict[str, float]] = {}
    for name, scores in (("shape_to_image", near), ("image_to_shape", near.T)):
        own = np.diag(scores)[:, None]
        rank = (scores > own).sum(axis=1)
        found[name] = {f"top{k}": round(float((rank < k).mean()), 4) for k in top}
    return found
