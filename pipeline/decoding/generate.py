"""From prompts to programs with a trained model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.decoding.constrained import GrammarProcessor
from pipeline.decoding.options import Decoding
from pipeline.decoding.plain.model import PlainModel, Processor
from pipeline.decoding.sampling import SeededSampling
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, collate
from pipeline.runtime.device import autocast
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import digest

if TYPE_CHECKING:
    from transformers import StoppingCriteria


@torch.inference_mode()
def generate_tokens(
    model: CadMllmModel,
    prompts: Sequence[Inputs],
    decoding: Decoding,
    generators: Sequence[np.random.Generator] | None = None,
    stopping: "Sequence[StoppingCriteria]" = (),
) -> list[list[list[int]]]:
    """Programs for each prompt, as CAD token ids, END included (of text, as far as it can be read).

    Args:
        prompts: any mix of modalities, with the same number of views where they have images; ``program`` is the start
            of a program that is to be completed: whole extrusions without END, or nothing.
        generators: for the one sample of each prompt, which then does not depend on the others; None: of the seed of
            ``decoding``.
        stopping: ends programs before their end.
    """
    model.eval()
    torch.manual_seed(digest(decoding.seed, "sampled"))
    batch = collate(prompts, model.num_tokens(num_views(prompts)), padded=True).to(model.device)
    processors: list[Processor] = []
    if decoding.constrained and model.params.vocabulary == "cad":
        starts = [prompt.program for prompt in prompts]
        processors.append(GrammarProcessor(model.grammar, decoding.max_new_tokens, starts))
    if generators is not None:
        processors.append(SeededSampling(generators, decoding.temperature))
        decoding = replace(decoding, temperature=0.0)
    with model.merged(), autocast(model.device, model.dtype):
        embedded_BLE = model.embed(batch).to(model.dtype)
        if isinstance(model, PlainModel):
            if len(prompts) > 1 or decoding.num_beams > 1 or stopping:
                raise UserError("a model that was loaded `alone` writes for one prompt, without beams; load it without")
            rows = model.write(embedded_BLE, decoding, processors)
        else:
            mask_BL = batch.gather_BL.ne(0).long()
            rows = _with_transformers(model, embedded_BLE, mask_BL, decoding, processors, stopping)
    count = decoding.num_samples
    return [
        [model.notation.read([*prompt.program, *row]) for row in rows[number * count : (number + 1) * count]]
        for number, prompt in enumerate(prompts)
    ]


def _with_transformers(
    model: CadMllmModel,
    embedded_BLE: Tensor,
    mask_BL: Tensor,
    decoding: Decoding,
    processors: Sequence[Processor],
    stopping: "Sequence[StoppingCriteria]",
) -> list[list[int]]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    base = model.causal_lm
    base.generation_config = GenerationConfig()  # the base model's own names tokens of another vocabulary
    rows: list[list[int]] = base.generate(
        inputs_embeds=embedded_BLE,
        attention_mask=mask_BL,
        generation_config=decoding.config(model.notation.end),
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList(stopping),
    ).tolist()
    return rows


def num_views(inputs: Sequence[Inputs]) -> int | None:
    """How many views the images of prompts have; None without images."""
    return next((len(item.views) for item in inputs if item.views), None)
