"""The Llama decoder in plain torch, for programs that are written after one prompt: the same bits as transformers' own.

Shapes: B rows, L positions, H heads, K of them for keys and values, D a head's width, E the model's width.
"""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.settings import Lora

PROJECTIONS = {  # LoRA may be on any of them
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
NORMS = ("input_layernorm", "post_attention_layernorm")
# What a configuration must say (a key that it lacks says so, too), as far as it is not a number.
PLAIN = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
    "rope_scaling": None,
}
Keys = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (B, K, L, D), of the positions so far


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether ``Llama`` computes what a ``config.json`` describes."""
    rope = config.get("rope_parameters") or {}
    return rope.get("rope_type") == "default" and all(config.get(key, value) == value for key, value in PLAIN.items())


class Projection(nn.Module):
    """``x W^T``, and where there is LoRA ``+ scale (x A^T) B^T``; merged, ``x (W + scale B A)^T``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.scale = 0.0
        self.sum: Tensor | None = None

    def adapt(self, lora: Lora) -> None:
        """Give it LoRA, whose numbers come from a file."""
        outputs, inputs = self.weight.shape
        self.lora_A = nn.Parameter(torch.zeros(lora.r, inputs), requires_grad=False)
        self.lora_B = nn.Parameter(torch.zeros(outputs, lora.r), requires_grad=False)
        self.scale = lora.alpha / lora.r

    def merge(self, merged: bool) -> None:
        """Put LoRA within the weights, or take it out again."""
        if self.lora_A is not None and self.lora_B is not None:
            self.sum = self.weight + (self.lora_B @ self.lora_A) * self.scale if merged else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) to (…, outputs)."""
        if self.lora_A is None or self.lora_B is None or self.sum is not None:
            return F.linear(x, self.weight if self.sum is None else self.sum)
        flat_ND = x.reshape(-1, x.shape[-1])
        out_NO = flat_ND @ self.weight.T
        out_NO.addmm_(flat_ND @ self.lora_A.T, self.lora_B.T, alpha=self.scale)
        return out_NO.view(*x.shape[:-1], -1)


class Norm(nn.Module):
    """``x / rms(x) * weight``."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight, requires_grad=False), eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, E) to (…, E); in the order of ``model.fused``, so that rounding is the same."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        out: Tensor = (x * norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()).mul_(self.weight)
        return out


class Layer(nn.Module):
    """Attention and MLP, each added to what comes in.

    Args:
        weights: its tensors by their names within the layer.
    """

    self_attn: nn.ModuleDict
    mlp: nn.ModuleDict
    input_layernorm: Norm
    post_attention_layernorm: Norm

    def __init__(self, weights: Mapping[str, Tensor], config: SimpleNamespace) -> None:
        super().__init__()
        for part, names in PROJECTIONS.items():
            matrices = {name: Projection(weights[f"{part}.{name}.weight"]) for name in names}
            self.add_module(part, nn.ModuleDict(matrices))
        for name in NORMS:
            self.add_module(name, Norm(weights[f"{name}.weight"], config.rms_norm_eps))
        self.head_dim, self.shared = config.head_dim, config.num_attention_heads // config.num_key_value_heads

    def forward(self, x_BLE: Tensor, turn: tuple[Tensor, Tensor], lengths: list[int] | None, before: Any) -> Any:
        """(B, L, E), and keys and values with those from ``before``; alone where ``lengths`` says what is in a row."""
        attention, mlp = self.self_attn, self.mlp
        inner_BLE = self.input_layernorm(x_BLE)
        query, key, value = (
            attention[name](inner_BLE).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        query, key = (whole * turn[0] + _half_turned(whole) * turn[1] for whole in (query, key))
        if before is not None:
            key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
        sizes = [key.shape[2]] if lengths is None else lengths
        rows = (query.shape[2:3] if lengths is None else lengths, sizes, sizes)
        split = (whole.split(list(each), dim=2) for whole, each in zip((query, key, value), rows, strict=True))
        seen = [
            F.scaled_dot_product_attention(
                q, k, v, is_causal=q.shape[2] > 1, scale=self.head_dim**-0.5, enable_gqa=self.shared > 1
            )
            for q, k, v in zip(*split, strict=True)
        ]
        seen_BLE = torch.cat([each.transpose(1, 2).flatten(2) for each in seen], dim=1)
        x_BLE = x_BLE + attention["o_proj"](seen_BLE)
        inner_BLE = self.post_attention_layernorm(x_BLE)
        gated = F.silu(mlp["gate_proj"](inner_BLE)) * mlp["up_proj"](inner_BLE)
        return x_BLE + mlp["down_proj"](gated), (key, value)


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Llama(nn.Module):
    """A causal language model.

    Args:
        config: its ``config.json``, of which ``is_plain`` is true.
        weights: its tensors, as transformers names them.

    Raises:
        ValueError: a tensor is missing, or of another shape than the configuration says.
    """

    speeds: Tensor

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        own = SimpleNamespace(**{"num_key_value_heads": config["num_attention_heads"], **config})
        own.head_dim = config.get("head_dim") or own.hidden_size // own.num_attention_heads
        self.config = own
        _check_shapes(own, weights)
        tied = weights["model.embed_tokens.weight"]
        self.embed = nn.Embedding(own.vocab_size, own.hidden_size, _weight=tied)
        self.layers = nn.ModuleList(
            Layer(_below(weights, f"model.layers.{number}."), own) for number in range(own.num_hidden_layers)
        )
        self.norm = Norm(weights["model.norm.weight"], own.rms_norm_eps)
        self.head = nn.Linear(own.hidden_size, own.vocab_size, bias=False, device="meta")
        self.head.weight = nn.Parameter(weights.get("lm_head.weight", tied), requires_grad=False)
        speeds = torch.arange(0, own.head_dim, 2, dtype=torch.float) / own.head_dim
        self.register_buffer("speeds", 1.0 / (own.rope_parameters["rope_theta"] ** speeds), persistent=False)

    def get_input_embeddings(self) -> nn.Embedding:
        """As transformers calls it."""
        return self.embed

    def set_input_embeddings(self, embedding: nn.Embedding) -> None:
        """As transformers calls it."""
        self.embed = embedding

    def get_output_embeddings(self) -> nn.Linear:
        """As transformers calls it."""
        return self.head

    def set_output_embeddings(self, head: nn.Linear) -> None:
        """As transformers calls it."""
        self.head = head

    def projections(self) -> Iterable[tuple[str, Projection]]:
        """All matrices that may have LoRA, with their names."""
        for name, module in self.named_modules():
            if isinstance(module, Projection):
                yield name, module

    def row(self, embedded_1LE: Tensor, lengths: Iterable[int]) -> Tensor:
        """(1, L, E) last states of sequences of these lengths in a row, each seeing itself alone."""
        lengths = list(lengths)
        positions = torch.cat([torch.arange(length, device=embedded_1LE.device) for length in lengths])
        return self._decoded(embedded_1LE, positions, lengths, [None] * len(self.layers))[0]

    def logits(self, embedded_BLE: Tensor, before: Keys | None) -> tuple[Tensor, Keys]:
        """(B, C) of what follows these positions, which follow those of ``before``; and what is kept for the next."""
        first = 0 if before is None else before[0][0].shape[2]
        positions = torch.arange(first, first + embedded_BLE.shape[1], device=embedded_BLE.device)
        hidden_BLE, kept = self._decoded(embedded_BLE, positions, None, before or [None] * len(self.layers))
        logits_BC: Tensor = self.head(hidden_BLE[:, -1:])[:, -1]
        return logits_BC, kept

    def _decoded(self, x_BLE: Tensor, positions: Tensor, lengths: list[int] | None, before: Any) -> tuple[Tensor, Keys]:
        angles_LD = (positions[:, None].float() * self.speeds).repeat(1, 2)
        turn, kept = (angles_LD.cos(), angles_LD.sin()), []
        for layer, keys in zip(self.layers, before, strict=True):
            x_BLE, longer = layer(x_BLE, turn, lengths, keys)
            kept.append(longer)
        return self.norm(x_BLE), kept


def _check_shapes(own: SimpleNamespace, weights: Mapping[str, Tensor]) -> None:
    width, inner = own.hidden_size, own.intermediate_size
    heads, shared = own.num_attention_heads * own.head_dim, own.num_key_value_heads * own.head_dim
    matrices = ((heads, width), (shared, width), (shared, width), (width, heads), *[(inner, width)] * 2, (width, inner))
    names = [f"{part}.{name}.weight" for part, parts in PROJECTIONS.items() for name in parts]
    layer = {**dict(zip(names, matrices, strict=True)), **{f"{norm}.weight": (width,) for norm in NORMS}}
    expected = {"model.embed_tokens.weight": (own.vocab_size, width), "model.norm.weight": (width,)}
    for number in range(own.num_hidden_layers):
        expected |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        if not expected.keys() <= weights.keys():
            break
    if "lm_head.weight" in weights:
        expected["lm_head.weight"] = (own.vocab_size, width)
    for name, shape in expected.items():
        if name not in weights or weights[name].shape != shape:
            found = f"is {list(weights[name].shape)}, not {list(shape)}" if name in weights else "is missing"
            raise ValueError(f"{name} {found}")


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
