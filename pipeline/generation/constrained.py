"""The grammar as a logits processor for ``transformers.generate``: greedy, sampling and beams."""

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from pipeline.cad.grammar import Grammar, State
from pipeline.cad.tokens import TOKEN


class GrammarProcessor(LogitsProcessor):  # type: ignore[misc]
    """Lets through only tokens after which the program can still end within the budget.

    Use one for each call of ``generate``, with ``inputs_embeds``: ``input_ids`` then hold CAD tokens alone.

    Args:
        grammar: of the model's vocabulary.
        max_new_tokens: the budget, END included.
    """

    def __init__(self, grammar: Grammar, max_new_tokens: int) -> None:
        self.grammar = grammar
        self.max_new_tokens = max_new_tokens
        # Rows change places in beam search: states are found by what was written, not by row.
        self._states: dict[tuple[int, ...], State] = {(): State()}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prefixes = [tuple(row) for row in input_ids.tolist()]
        states = {prefix: self._state(prefix) for prefix in prefixes}
        self._states = states  # what no row continues is forgotten
        remaining = self.max_new_tokens - input_ids.shape[1]
        masks = np.stack([self._allowed(states[prefix], remaining) for prefix in prefixes])
        return scores.masked_fill(~torch.from_numpy(masks).to(scores.device), -torch.inf)

    def _state(self, prefix: tuple[int, ...]) -> State:
        if prefix in self._states:
            return self._states[prefix]
        before = self._states[prefix[:-1]]
        return before if before.slot == "done" else self.grammar.advance(before, prefix[-1], checked=False)

    def _allowed(self, state: State, remaining: int) -> np.ndarray:
        if state.slot == "done":  # finished rows are filled up while others go on
            mask = np.zeros(self.grammar.size, bool)
            mask[TOKEN["END"]] = True
            return mask
        return self.grammar.allowed(state, remaining)
