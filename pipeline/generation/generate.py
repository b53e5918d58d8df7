"""From prompts to programs with a trained model."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessorList

from pipeline.device import autocast
from pipeline.generation.constrained import GrammarProcessor
from pipeline.model.cad_mllm import CadMllm
from pipeline.training.batches import Inputs, collate


@torch.inference_mode()
def generate_tokens(
    model: CadMllm,
    prompts: Sequence[Inputs],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """One program for each prompt, as CAD token ids, END included (of text, as far as it can be read).

    Args:
        prompts: without programs; any mix of modalities, with the same number of views where they have images.
        max_new_tokens: every program ends within it.
        temperature: 0 is greedy.
    """
    model.eval()
    torch.manual_seed(seed)
    num_views = next((len(prompt.views) for prompt in prompts if prompt.views), None)
    batch = collate(prompts, model.num_tokens(num_views), left=True).to(model.device)
    base = model.causal_lm
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=model.notation.end,
        pad_token_id=model.notation.end,
        use_cache=True,
        **sampling,
    )
    # Text has no grammar that would hold it to programs.
    constrained = [GrammarProcessor(model.grammar, max_new_tokens)] if model.params.vocabulary == "cad" else []
    base.generation_config = GenerationConfig()  # the base model's own names tokens of another vocabulary
    with autocast(model.device, model.dtype):
        rows = base.generate(
            inputs_embeds=model.embed(batch).to(model.dtype),
            attention_mask=batch.gather_BL.ne(0).long(),
            generation_config=settings,
            logits_processor=LogitsProcessorList(constrained),
        )
    return [model.notation.read(row) for row in rows.tolist()]
