"""Michelangelo's shape encoder (Zhao et al. 2023, arXiv 2306.17115): a perceiver over surface points.

Shapes: B clouds, N points, L latents + 1 global token, W width, H heads.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoders.tensors import read_tensors
from pipeline.runtime.errors import UserError
from pipeline.runtime.state_dicts import check_fit

NUM_FREQUENCIES = 8
POINT_WIDTH = 3 + 2 * 3 * NUM_FREQUENCIES + 3  # xyz, sines, cosines, normal
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class MichelangeloConfig:
    """Sizes of an encoder; the released one is 768 wide with 12 heads, 8 layers and 256 latents."""

    width: int
    num_heads: int
    num_layers: int
    num_latents: int
    model_type: str = "michelangelo"

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise UserError(f"Michelangelo: width {self.width} is no multiple of {self.num_heads} heads")


def fourier_embedding(xyz: Tensor) -> Tensor:
    """(…, 3) coordinates to (…, 51): raw, then all sines, then all cosines, of x, y, z at 2^0 … 2^7 (no pi)."""
    frequencies = 2.0 ** torch.arange(NUM_FREQUENCIES, device=xyz.device, dtype=torch.float32)
    phases = (xyz.float()[..., None] * frequencies).flatten(-2)  # coordinate-major
    return torch.cat([xyz.float(), phases.sin(), phases.cos()], dim=-1)


class Mlp(nn.Module):
    """W -> 4W -> W with exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, W) to the same shape."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class CrossAttention(nn.Module):
    """Queries attend to data. Keys and values are packed head by head."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_kv = nn.Linear(width, 2 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x_BLW: Tensor, data_BNW: Tensor) -> Tensor:
        """(B, L, W) queries and (B, N, W) data to (B, L, W)."""
        q = self.c_q(x_BLW).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.c_kv(data_BNW).unflatten(-1, (self.num_heads, -1)).transpose(1, 2).chunk(2, dim=-1)
        out: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return out


class SelfAttention(nn.Module):
    """Queries, keys and values are packed head by head."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.c_qkv = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """(B, L, W) to the same shape."""
        q, k, v = self.c_qkv(x_BLW).unflatten(-1, (self.num_heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        out: Tensor = self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return out


class CrossBlock(nn.Module):
    """Pre-norm cross-attention, then MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = CrossAttention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_3 = nn.LayerNorm(width)

    def forward(self, x_BLW: Tensor, data_BNW: Tensor) -> Tensor:
        """(B, L, W) queries and (B, N, W) data to (B, L, W)."""
        x_BLW = x_BLW + self.attn(self.ln_1(x_BLW), self.ln_2(data_BNW))
        out: Tensor = x_BLW + self.mlp(self.ln_3(x_BLW))
        return out


class SelfBlock(nn.Module):
    """Pre-norm self-attention, then MLP."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """(B, L, W) to the same shape."""
        x_BLW = x_BLW + self.attn(self.ln_1(x_BLW))
        out: Tensor = x_BLW + self.mlp(self.ln_2(x_BLW))
        return out


class SelfStack(nn.Module):
    """The self-attention blocks, under the name that checkpoints use."""

    def __init__(self, width: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(SelfBlock(width, num_heads) for _ in range(num_layers))


class MichelangeloEncoder(nn.Module):
    """Surface points with normals to one global token and L latents, all after the last norm."""

    def __init__(self, config: MichelangeloConfig) -> None:
        super().__init__()
        width, heads = config.width, config.num_heads
        self.config = config
        self.query = nn.Parameter(torch.randn(1 + config.num_latents, width) * 0.02)
        self.input_proj = nn.Linear(POINT_WIDTH, width)
        self.cross_attn = CrossBlock(width, heads)
        self.self_attn = SelfStack(width, heads, config.num_layers)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, surface_BN6: Tensor) -> Tensor:
        """(B, N, 6) xyz and unit normals to (B, 1 + L, W), the global token first."""
        xyz, normals = surface_BN6[..., :3], surface_BN6[..., 3:]
        points = torch.cat([fourier_embedding(xyz), normals.float()], dim=-1)
        data_BNW = self.input_proj(points.to(self.query.dtype))
        x_BLW = self.query.expand(len(surface_BN6), -1, -1)
        x_BLW = self.cross_attn(x_BLW, data_BNW)
        for block in self.self_attn.resblocks:
            x_BLW = block(x_BLW)
        out: Tensor = self.ln_post(x_BLW)
        return out

    @classmethod
    def from_checkpoint(cls, path: Path | str, num_heads: int | None = None) -> "MichelangeloEncoder":
        """The encoder in a checkpoint: Lightning, bare state dict or safetensors, whatever else it holds.

        Args:
            path: ``.ckpt``, ``.pt``, ``.pth``, ``.bin`` or ``.safetensors``; nothing in it is executed.
            num_heads: not in the weights; by default heads of 64.

        Raises:
            UserError: a tensor is missing or has the wrong shape, by name.
        """
        weights = encoder_tensors(read_tensors(Path(path)), str(path))
        try:
            width = weights["query"].shape[1]
            layers = 1 + max(
                (int(n.split(".")[2]) for n in weights if n.startswith("self_attn.resblocks.")), default=-1
            )
            config = MichelangeloConfig(width, num_heads or max(1, width // 64), layers, len(weights["query"]) - 1)
        except (KeyError, IndexError) as error:
            raise UserError(f"{path}: no Michelangelo encoder in it (encoder.query is looked for)") from error
        encoder = cls(config)
        encoder.load_checked(weights, str(path))
        return encoder

    def load_checked(self, weights: dict[str, Tensor], name: str) -> None:
        """Load all parameters, or say which do not fit."""
        own = self.state_dict()
        check_fit(own, weights, name, "a Michelangelo encoder")
        self.load_state_dict({key: weights[key].to(value.dtype) for key, value in own.items()})

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=1, sort_keys=True) + "\n")
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "MichelangeloEncoder":
        """Read what ``save_pretrained`` wrote.

        Raises:
            UserError: its weights are missing or damaged.
        """
        encoder = cls(MichelangeloConfig(**json.loads((folder / CONFIG).read_text())))
        encoder.load_checked(read_tensors(folder / WEIGHTS), str(folder))
        return encoder


def encoder_tensors(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The encoder's parameters, keys relative to it, out of everything a checkpoint holds.

    Raises:
        UserError: there is no encoder, or more than one place that could be it.
    """
    places = [
        key.removesuffix("encoder.query") for key in tensors if key == "encoder.query" or key.endswith(".encoder.query")
    ]
    preferred = [p for p in places if p == "" or p.endswith("shape_model.")] or places
    if len(preferred) != 1:
        found = f"{len(preferred)} encoders ({', '.join(preferred)})" if preferred else "no encoder.query"
        raise UserError(f"{name}: {found} in it")
    prefix = f"{preferred[0]}encoder."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
