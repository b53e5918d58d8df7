"""Adaptive learning rates: how many dimensions a modality's features fill, next to those of the captions.

A projector whose input spreads over many directions has more to align before it can be read, and learns faster.
"""

import numpy as np

from pipeline.curriculum.data import TrainingData
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.runtime.seeds import shuffled

SAMPLES = 256
TOKENS = 32  # of each sample
BOUNDS = (0.25, 4.0)


def participation_ratio(vectors: np.ndarray) -> float:
    """Dimensions that (N, D) vectors fill: (sum of variances)^2 / sum of squared variances along principal axes.

    1 on a line, D for a ball.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred
    norm = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / norm) if norm > 0 else 1.0


def adaptations(model: CadMllmModel, data: TrainingData, strength: float, seed: int) -> dict[str, float]:
    """A factor on the learning rate for each modality's projector; none where ``strength`` is 0.

    Args:
        strength: the power of (dimensions of the modality / dimensions of the captions' embeddings).
    """
    if strength == 0:
        return {}
    rows = shuffled(data.names, seed, "complexity")[:SAMPLES].tolist()
    ids = np.unique(np.concatenate(data.tokenised(rows)))
    text = participation_ratio(model.text_embedding.table.weight[ids.tolist()].detach().float().cpu().numpy())
    factors = {}
    for modality in data.features:
        found = []
        for row in rows:
            tokens = data.feature(row, modality)
            tokens = tokens.reshape(-1, tokens.shape[-1])
            found.append(tokens[np.linspace(0, len(tokens) - 1, min(TOKENS, len(tokens))).astype(int)])
        ratio = participation_ratio(np.concatenate(found)) / text
        factors[modality] = float(np.clip(ratio**strength, *BOUNDS))
    return factors
