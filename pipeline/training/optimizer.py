"""AdamW with a learning rate for each kind of trained part."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import whole
from pipeline.runtime.errors import UserError


def make_optimizer(
    model: CadMllmModel, stage: CurriculumStage, training: Training, adaptation: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """The document's parameter groups: the LLM at the stage's rate, projectors at ``projector_lr_multiplier`` times it.

    Weight decay applies to matrices alone: not to biases, norms and embeddings.

    Args:
        adaptation: a further factor for each projector, from ``complexity``.

    Raises:
        UserError: the stage trains nothing.
    """
    text = [model.text_embedding.rows] if model.text_embedding.rows is not None else []
    rates: list[tuple[str, list[nn.Parameter], float, bool]] = [
        ("lora", list(model.lora().values()), 1.0, True),
        ("vocabulary", list(model.vocabulary().values()), training.vocabulary_lr_multiplier, False),
        ("text_embeddings", text, training.text_lr_multiplier, False),
    ]
    for modality, projector in model.projectors.items():
        factor = training.projector_lr_multiplier * (adaptation or {}).get(modality, 1.0)
        rates.append((f"projector/{modality}", list(projector.parameters()), factor, True))
    groups = []
    for name, parameters, factor, decays in rates:
        for matrices in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1 and decays) == matrices]
            if chosen:
                lr, decay = stage.lr * factor, training.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay, "name": name})
    if not groups:
        raise UserError("the stage trains nothing: see its train_llm, text_embeddings and train_projectors")
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def set_learning_rates(optimizer: torch.optim.AdamW, factor: float) -> None:
    """Scale every group's rate from its own base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip to ``max_norm``; the norm before clipping, still on its device."""
    return whole(nn.utils.clip_grad_norm_(list(parameters), max_norm))
