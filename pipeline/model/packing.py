"""Sequences one after the other in a single row, each seeing itself alone: nothing is padded, nothing computed for it.

Everything in a decoder but attention works position by position. Attention is given the sequences' lengths in the place
of a mask, which transformers hands through as it is if it has four dimensions, and computes each sequence by itself:
causal, without a mask, so that the half that is never seen is skipped. A GPU that has FlashAttention does all of them
at once, in half precision: to ask for each of some hundred positions takes longer than to compute it.

Shapes: S sequences, L positions of all of them, H heads, D a head's width, E the model's width.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_by_sequence"
# What FlashAttention is made for: of GPUs, dtypes, and a head's width.
FLASH, HALF, WIDEST = (8, 0), (torch.float16, torch.bfloat16), 256


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _by_sequence(
    module: Any, query_1HLD: Tensor, key_1HLD: Tensor, value_1HLD: Tensor, lengths: Tensor, **options: Any
) -> Tensor:
    window = options.get("sliding_window")
    if "cu_seq_lens_q" in options and query_1HLD.dtype in HALF and query_1HLD.shape[-1] <= WIDEST:
        return _at_once(query_1HLD, key_1HLD, value_1HLD, window, **options)
    sizes = lengths.flatten().tolist()
    parts = zip(*(torch.split(whole, sizes, dim=2) for whole in (query_1HLD, key_1HLD, value_1HLD)), strict=True)
    seen = (
        sdpa_attention_forward(module, query, key, value, _band(query, window), **options)[0]
        for query, key, value in parts
    )
    return torch.cat(list(seen), dim=1)


def _at_once(
    query_1HLD: Tensor,
    key_1HLD: Tensor,
    value_1HLD: Tensor,
    window: int | None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_: Any,
) -> Tensor:
    """(1, L, H, D) by FlashAttention, which takes rows of positions and where each sequence begins."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (whole[0].transpose(0, 1) for whole in (query_1HLD, key_1HLD, value_1HLD))
    back = -1 if window is None else window - 1
    shared = query_1HLD.shape[1] != key_1HLD.shape[1]
    ends, longest = cu_seq_lens_q, max_length_q
    seen = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(back, 0), enable_gqa=shared
    )
    assert isinstance(seen, Tensor)
    return seen[None]


def _band(query: Tensor, window: int | None) -> Tensor | None:
    """What a sliding window leaves of a longer sequence."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: lengths are integers, a mask is not."""
    if attention_mask is not None and attention_mask.dtype == torch.int64:
        return _by_sequence(module, query, key, value, attention_mask, **options), None
    seen: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return seen


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def enable_packing(llm: Any) -> None:
    """Let a transformers model read sequences in a row, if its layers look elsewhere through plain attention alone.

    Not those with attention of their own, and none with convolutions, states or chunks that would reach over the ends.
    """
    kinds = set(getattr(llm.config, "layer_types", None) or ())
    plain = llm.config._attn_implementation == "sdpa" and kinds <= {"full_attention", "sliding_attention"}
    if plain and llm._supports_attention_backend and not llm._is_stateful:
        llm.set_attn_implementation(ATTENTION)


def decode_row(decoder: Any, embedded_1LE: Tensor, lengths: Sequence[int]) -> Tensor:
    """(1, L, E) what a decoder makes of sequences of these lengths in a row.

    One that was not prepared gets a rectangle, padded on the right: what is causal does not see the padding.
    """
    if decoder.config._attn_implementation != ATTENTION:
        rows_BLE = pad_sequence(list(torch.split(embedded_1LE[0], list(lengths))), batch_first=True)
        hidden_BLE = decoder(inputs_embeds=rows_BLE, use_cache=False).last_hidden_state
        return torch.cat([row[:length] for row, length in zip(hidden_BLE, lengths, strict=True)])[None]
    device = embedded_1LE.device
    positions_1L = torch.cat([torch.arange(length) for length in lengths])[None]
    at_once = {}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLASH:
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(device)
        at_once = {"cu_seq_lens_q": ends, "max_length_q": max(lengths)}
    hidden: Tensor = decoder(
        inputs_embeds=embedded_1LE,
        attention_mask=torch.tensor(lengths).view(1, 1, 1, -1),
        position_ids=positions_1L.to(device),
        use_cache=False,
        **at_once,
    ).last_hidden_state
    return hidden
