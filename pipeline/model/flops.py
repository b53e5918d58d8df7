"""Model FLOPs of a training step, as MFU counts them: padding and recomputation left out."""

from pipeline.model.cad_mllm import Batch, CadMllmModel


class FlopCount:
    """Operations of the forward and backward pass for a batch, from its lengths alone.

    A frozen matrix costs 4 for each weight and token (forward, and the gradient of its input), a trained one 6.
    Causal attention counts half the square of the length, forward once and backward twice.
    """

    def __init__(self, model: CadMllmModel) -> None:
        config = model.causal_lm.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        frozen, adapters = decoder_weights(model)
        self.per_token = 4.0 * frozen + 6.0 * adapters
        self.per_square = 3.0 * 2 * config.num_hidden_layers * config.num_attention_heads * head_dim
        self.per_target = 6.0 * float(model.causal_lm.get_output_embeddings().weight.numel())
        # A projector's input needs no gradient.
        self.per_feature = {
            modality: 4.0 * sum(p.numel() for p in projector.parameters() if p.ndim > 1)
            for modality, projector in model.projectors.items()
        }

    def __call__(self, batch: Batch) -> float:
        total: float = self.per_token * batch.num_tokens + self.per_square * sum(length**2 for length in batch.lengths)
        total += self.per_target * len(batch.targets)
        for modality, shown in (("point_cloud", batch.points), ("image", batch.images)):
            if shown is not None:
                total += self.per_feature[modality] * shown[..., 0].numel()
        return total


def decoder_weights(model: CadMllmModel) -> tuple[int, int]:
    """Weights in the frozen matrices of the decoder layers, and in LoRA's."""
    frozen = adapters = 0
    for name, module in model.causal_lm.model.named_modules():
        # PEFT's wrapper has the sizes too, around a matrix that is counted itself.
        if hasattr(module, "in_features") and not hasattr(module, "base_layer"):
            size = int(module.in_features) * int(module.out_features)
            if "lora_" in name:
                adapters += size
            else:
                frozen += size
    return frozen, adapters
