"""From prompts to programs with a trained model."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from pipeline.cad.language.tokens import TOKEN
from pipeline.decoding.constrained import GrammarProcessor
from pipeline.decoding.options import Decoding
from pipeline.decoding.sampling import SeededSampling
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, collate
from pipeline.runtime.device import autocast
from pipeline.runtime.seeds import digest


@torch.inference_mode()
def generate_tokens(
    model: CadMllmModel,
    prompts: Sequence[Inputs],
    decoding: Decoding,
    generators: Sequence[np.random.Generator] | None = None,
) -> list[list[list[int]]]:
    """Programs for each prompt, as CAD token ids, END included (of text, as far as it can be read).

    Args:
        prompts: any mix of modalities, with the same number of views where they have images; ``program`` is the start
            of a program that is to be completed: whole extrusions without END, or nothing.
        generators: for the one sample of each prompt, which then does not depend on the others; None: of the seed of
            ``decoding``.
    """
    model.eval()
    torch.manual_seed(digest(decoding.seed, "sampled"))
    batch = collate(prompts, model.num_tokens(_num_views(prompts)), padded=True).to(model.device)
    base = model.causal_lm
    processors: list[LogitsProcessor] = []
    if decoding.constrained and model.params.vocabulary == "cad":
        starts = [prompt.program for prompt in prompts]
        processors.append(GrammarProcessor(model.grammar, decoding.max_new_tokens, starts))
    if generators is not None:
        processors.append(SeededSampling(generators, decoding.temperature))
        decoding = replace(decoding, temperature=0.0)
    base.generation_config = GenerationConfig()  # the base model's own names tokens of another vocabulary
    with model.merged(), autocast(model.device, model.dtype):
        rows = base.generate(
            inputs_embeds=model.embed(batch).to(model.dtype),
            attention_mask=batch.gather_BL.ne(0).long(),
            generation_config=decoding.config(model.notation.end),
            logits_processor=LogitsProcessorList(processors),
        ).tolist()
    count = decoding.num_samples
    return [
        [model.notation.read([*prompt.program, *row]) for row in rows[number * count : (number + 1) * count]]
        for number, prompt in enumerate(prompts)
    ]


@torch.inference_mode()
def score(model: CadMllmModel, prompt: Inputs, programs: Sequence[Sequence[int]]) -> list[float]:
    """Natural log-probability that the model, unconstrained, gives to each whole program after a prompt.

    Args:
        programs: CAD tokens.
    """
    model.eval()
    inputs = [replace(prompt, program=model.notation.write(program)) for program in programs]
    batch = collate(inputs, model.num_tokens(_num_views(inputs))).to(model.device)
    with autocast(model.device, model.dtype):
        logits_PC = model.causal_lm.get_output_embeddings()(model.hidden(batch))
    found_P = -F.cross_entropy(logits_PC.float(), batch.targets, reduction="none").cpu()
    ends = np.cumsum([0, *(len(item.program) for item in inputs)])
    return [float(found_P[start:end].sum()) for start, end in itertools.pairwise(ends)]


def _num_views(inputs: Sequence[Inputs]) -> int | None:
    return next((len(item.views) for item in inputs if item.views), None)


def without_end(tokens: Sequence[int]) -> list[int]:
    """The start of a program that can be completed: its tokens without END."""
    return [token for token in tokens if token != TOKEN["END"]]
