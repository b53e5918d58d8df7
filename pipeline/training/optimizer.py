"""AdamW with a learning rate for each kind of trained part."""

from collections.abc import Iterable

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.cad_mllm import CadMllm
from pipeline.params import CurriculumStage, Training


def make_optimizer(model: CadMllm, stage: CurriculumStage, training: Training) -> torch.optim.AdamW:
    """The document's parameter groups: the LLM at the stage's rate, projectors at ``projector_lr_multiplier`` times it.

    Weight decay applies to matrices alone: not to biases, norms and embeddings.

    Raises:
        UserError: the stage trains nothing.
    """
    vocabulary = list(model.vocabulary().values())
    rates = [
        ("lora", list(model.lora().values()), stage.lr, True),
        ("vocabulary", vocabulary, stage.lr * training.vocabulary_lr_multiplier, False),
        ("projectors", list(model.projectors.parameters()), stage.lr * training.projector_lr_multiplier, True),
    ]
    groups = []
    for name, parameters, lr, decays in rates:
        for matrices in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1 and decays) == matrices]
            if chosen:
                decay = training.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay, "name": name})
    if not groups:
        raise UserError("the curriculum stage trains nothing: train_llm and train_projectors are both false")
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def set_learning_rates(optimizer: torch.optim.AdamW, factor: float) -> None:
    """Scale every group's rate from its own base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Clip to ``max_norm``; the norm before clipping."""
    return float(nn.utils.clip_grad_norm_(list(parameters), max_norm))
