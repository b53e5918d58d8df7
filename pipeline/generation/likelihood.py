"""How likely a model finds whole programs."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.decoding.generate import num_views
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, collate
from pipeline.runtime.device import autocast


@torch.inference_mode()
def score(model: CadMllmModel, prompt: Inputs, programs: Sequence[Sequence[int]]) -> list[float]:
    """Natural log-probability that the model, unconstrained, gives to each whole program after a prompt.

    Args:
        programs: CAD tokens.
    """
    model.eval()
    inputs = [replace(prompt, program=model.notation.write(program)) for program in programs]
    batch = collate(inputs, model.num_tokens(num_views(inputs))).to(model.device)
    with autocast(model.device, model.dtype):
        logits_PC = model.causal_lm.get_output_embeddings()(model.hidden(batch))
    found_P = -F.cross_entropy(logits_PC.float(), batch.targets, reduction="none").cpu()
    ends = np.cumsum([0, *(len(item.program) for item in inputs)])
    return [float(found_P[start:end].sum()) for start, end in itertools.pairwise(ends)]
