"""Cross-entropy whose logits never exist all at once.

Shapes: P loss positions, E the language model's width, C entries of the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 24  # 64 MiB in float32


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made chunk by chunk in the forward pass: the logits are there, and are not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PE: Tensor,
        weight_CE: Tensor,
        targets_P: Tensor,
        weights_P: Tensor | None,
        allowed_PC: Tensor | None,
        chunk: int,
    ) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        # The factor that saves small gradients in float16 comes with the backward pass: until then in float32.
        kept = torch.float32 if hidden_PE.dtype == torch.float16 else hidden_PE.dtype
        grad_PE = torch.empty_like(hidden_PE, dtype=kept) if for_hidden else None
        grad_CE = torch.zeros_like(weight_CE, dtype=torch.float32) if for_weight else None
        total = hidden_PE.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_PE), chunk):
            here = slice(start, start + chunk)
            hidden, targets = hidden_PE[here].to(weight_CE.dtype), targets_P[here, None]
            logits = (hidden @ weight_CE.T).float()
            if allowed_PC is not None:
                logits.masked_fill_(~allowed_PC[here], -torch.inf)
            norm = logits.logsumexp(dim=1, keepdim=True)
            losses = norm - logits.gather(1, targets)
            total += (losses if weights_P is None else losses * weights_P[here, None]).sum()
            if grad_PE is None and grad_CE is None:
                continue
            surprise = logits.sub_(norm).exp_()
            surprise.scatter_add_(1, targets, surprise.new_full(targets.shape, -1.0))
            if weights_P is not None:
                surprise *= weights_P[here, None]
            if grad_PE is not None:
                grad_PE[here] = _times(surprise, weight_CE, targets)
            if grad_CE is not None:
                grad_CE += surprise.to(weight_CE.dtype).T @ hidden
        ctx.save_for_backward(grad_PE, grad_CE)
        ctx.dtypes = hidden_PE.dtype, weight_CE.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grads = (
            None if grad is None else (grad.float() * upstream[0]).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None, None, None, None)


def _times(surprise_PC: Tensor, weight_CE: Tensor, targets_P1: Tensor) -> Tensor:
    """Their product; in float16 of rows over their largest entry, the target's, so that none is rounded to zero."""
    if weight_CE.dtype != torch.float16:
        return surprise_PC.to(weight_CE.dtype) @ weight_CE
    largest_P1 = surprise_PC.gather(1, targets_P1).abs_().clamp_(min=torch.finfo(torch.float32).eps)
    return ((surprise_PC / largest_P1).to(weight_CE.dtype) @ weight_CE).float() * largest_P1


def cross_entropy_sum(
    hidden_PE: Tensor,
    weight_CE: Tensor,
    targets_P: Tensor,
    logits_at_once: int = LOGITS_AT_ONCE,
    weights_P: Tensor | None = None,
    allowed_PC: Tensor | None = None,
) -> Tensor:
    """Sum of the cross-entropy of ``hidden_PE @ weight_CE.T`` against the targets, in float32.

    Args:
        logits_at_once: how many logits may exist; the memory that the vocabulary costs, over 4 bytes.
        weights_P: of each target's part in the sum; None: 1.
        allowed_PC: bool, entries among which a target is; None: all.
    """
    with torch.autocast(hidden_PE.device.type, enabled=False):
        chunk = max(1, logits_at_once // len(weight_CE))
        total: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_PE, weight_CE, targets_P, weights_P, allowed_PC, chunk
        )
    return total
