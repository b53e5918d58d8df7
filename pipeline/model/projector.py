"""From a modality's embeddings into the language model's embedding space.

Shapes: B samples, T tokens in, Q tokens out, D the encoder's width, E the language model's.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.settings import Projector
from pipeline.runtime.state_dicts import read_safetensors
from pipeline.settings.resolved import PROJECTORS


class MlpProjector(nn.Module):
    """A two-layer GELU MLP on each token: (B, T, D) to (B, T, E)."""

    def __init__(self, params: Projector, width_in: int, width_out: int, output_std: float) -> None:
        super().__init__()
        self.up = nn.Linear(width_in, params.hidden)
        self.down = nn.Linear(params.hidden, width_out)
        # Start at the scale of text embeddings; GELU of a unit normal has an rms of 0.65.
        nn.init.normal_(self.up.weight, std=width_in**-0.5)
        nn.init.normal_(self.down.weight, std=output_std / 0.65 * params.hidden**-0.5)
        nn.init.zeros_(self.up.bias)
        nn.init.zeros_(self.down.bias)

    def num_tokens(self, num_inputs: int) -> int:
        """Tokens out for so many in: as many."""
        return num_inputs

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, E)."""
        out: Tensor = self.down(F.gelu(self.up(tokens_BTD)))
        return out


class ResamplerProjector(nn.Module):
    """Learnt queries attend to all tokens, then the MLP: (B, T, D) to (B, Q, E). The paper's choice for images."""

    def __init__(self, params: Projector, width_in: int, width_out: int, output_std: float) -> None:
        super().__init__()
        heads = max(1, width_in // 64)
        self.queries = nn.Parameter(torch.randn(params.num_queries, width_in) * 0.02)
        self.norm = nn.LayerNorm(width_in)
        self.attention = nn.MultiheadAttention(width_in, heads, batch_first=True)
        self.mlp = MlpProjector(params, width_in, width_out, output_std)

    def num_tokens(self, num_inputs: int) -> int:  # noqa: ARG002 - the same whatever comes in
        """Tokens out, Q, for however many in."""
        return len(self.queries)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, Q, E)."""
        queries_BQD = self.queries.expand(len(tokens_BTD), -1, -1)
        context = self.norm(tokens_BTD)
        attended, _ = self.attention(queries_BQD, context, context, need_weights=False)
        out: Tensor = self.mlp(queries_BQD + attended)
        return out


class ModalityProjector(nn.Module):
    """A projector and, for images, an embedding that says which view a token is from.

    Args:
        shape: of one sample's features: (T, D), or (V, T, D) for V views.
    """

    def __init__(self, params: Projector, shape: tuple[int, ...], width_out: int, output_std: float) -> None:
        super().__init__()
        kind = MlpProjector if params.kind == "mlp" else ResamplerProjector
        self.projector = kind(params, shape[-1], width_out, output_std)
        self.view_embedding = nn.Embedding(shape[0], shape[-1]) if len(shape) == 3 else None
        if self.view_embedding is not None:
            nn.init.normal_(self.view_embedding.weight, std=0.02)

    def num_tokens(self, shape: tuple[int, ...], views: int) -> int:
        """Tokens that one sample gives when ``views`` of its views are shown."""
        return self.projector.num_tokens(shape[0] if len(shape) == 2 else views * shape[1])

    def forward(self, features: Tensor, views: Tensor | None) -> Tensor:
        """(B, T, D), or (B, V, T, D) with view numbers (B, V), to (B, tokens, E)."""
        if self.view_embedding is not None:
            assert views is not None
            features = (features + self.view_embedding(views)[:, :, None]).flatten(1, 2)
        out: Tensor = self.projector(features)
        return out


def start_from_pretrained(projector: nn.Module, llm_folder: Path, modality: str) -> bool:
    """Give a new projector the pretrained one's values, where there is one of its kind and sizes."""
    path = llm_folder / PROJECTORS / f"{modality}.safetensors"
    if not path.is_file():
        return False
    tensors, own = read_safetensors(path), projector.state_dict()
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in own.items()}:
        return False
    projector.load_state_dict({name: value.to(own[name].dtype) for name, value in tensors.items()})
    return True
