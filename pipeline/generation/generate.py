"""From prompts to programs with a trained model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessorList

from pipeline.cad.tokens import TOKEN
from pipeline.device import autocast
from pipeline.errors import UserError
from pipeline.generation.constrained import GrammarProcessor
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.training.batches import Inputs, collate


@dataclass(frozen=True, slots=True)
class Decoding:
    """How programs are decoded.

    Attributes:
        max_new_tokens: every program ends within it, a given start not counted.
        num_samples: programs for each prompt.
        temperature: 0 is greedy, or with beams their search.
        top_p: sampling keeps to the likeliest tokens that have this probability together.
        num_beams: of a beam search; at least ``num_samples``.
        constrained: by the grammar. Programs written as text never are.
    """

    max_new_tokens: int
    num_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 0
    constrained: bool = True

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.num_samples > self.num_beams:
            raise UserError("several programs of one prompt need a temperature above 0, or as many beams")
        if self.temperature > 0 and self.num_beams > 1:
            raise UserError("either beams or a temperature above 0")

    def config(self, end: int) -> GenerationConfig:
        """As transformers has it, for a model whose programs end with ``end``."""
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_return_sequences=self.num_samples,
            num_beams=self.num_beams,
            eos_token_id=end,
            pad_token_id=end,
            use_cache=True,
            **(sampling if self.temperature > 0 else {"do_sample": False}),
        )


@torch.inference_mode()
def generate_tokens(model: CadMllmModel, prompts: Sequence[Inputs], decoding: Decoding) -> list[list[list[int]]]:
    """Programs for each prompt, as CAD token ids, END included (of text, as far as it can be read).

    Args:
        prompts: any mix of modalities, with the same number of views where they have images; ``program`` is the start
            of a program that is to be completed: whole extrusions without END, or nothing.
    """
    model.eval()
    torch.manual_seed(decoding.seed)
    batch = collate(prompts, model.num_tokens(_num_views(prompts)), left=True).to(model.device)
    base = model.causal_lm
    processors = []
    if decoding.constrained and model.params.vocabulary == "cad":
        starts = [prompt.program for prompt in prompts]
        processors.append(GrammarProcessor(model.grammar, decoding.max_new_tokens, starts))
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
    base = model.causal_lm
    with autocast(model.device, model.dtype):
        hidden_BLE = base.model(inputs_embeds=model.embed(batch).to(model.dtype), use_cache=False).last_hidden_state
        logits_PC = base.get_output_embeddings()(hidden_BLE.flatten(0, 1)[batch.loss_positions])
    found_P = -F.cross_entropy(logits_PC.float(), batch.targets, reduction="none")
    ends = np.cumsum([0, *(len(item.program) for item in inputs)])
    return [float(found_P[start:end].sum()) for start, end in itertools.pairwise(ends)]


def _num_views(inputs: Sequence[Inputs]) -> int | None:
    return next((len(item.views) for item in inputs if item.views), None)


def without_end(tokens: Sequence[int]) -> list[int]:
    """The start of a program that can be completed: its tokens without END."""
    return [token for token in tokens if token != TOKEN["END"]]
