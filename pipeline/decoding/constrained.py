"""The grammar, and what makes a profile, as a logits processor for ``transformers.generate``: any way to decode."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.cad.language.grammar import Grammar, State
from pipeline.cad.language.tokens import OPERATION_TOKENS, TOKEN
from pipeline.decoding.profiles import Drawing, SimpleProfiles
from pipeline.runtime.errors import UserError

Key = tuple[int, tuple[int, ...]]  # which prompt, and what was written after it


class GrammarProcessor:
    """Lets through only tokens after which the program can still end within the budget, its profiles simple.

    The grammar holds always. Where it leaves nothing but a loop that crosses itself (out of budget, or in a corner
    with no way out), the loop crosses itself.

    Use one for each call of ``generate``, with ``inputs_embeds``: ``input_ids`` then hold new tokens alone.

    Args:
        grammar: of the model's vocabulary.
        max_new_tokens: the budget, END included.
        starts: for each prompt the tokens of the program that it ends with: whole extrusions, or nothing. A program
            that has begun goes on with another operation, or ends.
        simple_profiles: False keeps to the grammar alone.

    Raises:
        GrammarError: a start is none.
        UserError: in a call, the model's logits are not numbers.
    """

    def __init__(
        self,
        grammar: Grammar,
        max_new_tokens: int,
        starts: Sequence[Sequence[int]] = ((),),
        simple_profiles: bool = True,
    ) -> None:
        self.grammar = grammar
        self.max_new_tokens = max_new_tokens
        self.starts = starts
        # Rows change places in beam search, within a prompt: states are found by what was written, not by row.
        self._states: dict[Key, tuple[State, Drawing]] = {}
        self._profiles = SimpleProfiles(grammar) if simple_profiles else None
        for number, start in enumerate(starts):
            state = State()
            for token in start:
                state = grammar.advance(state, token)
            self._states[number, ()] = state, Drawing()  # a start is of whole extrusions: what follows draws anew
        self._next_step = np.zeros(grammar.size, bool)
        self._next_step[[TOKEN["END"], *(TOKEN[name] for name in OPERATION_TOKENS.values())]] = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.isnan().any():
            raise UserError(
                "the model's logits are not numbers; where it computes in float16, that is too narrow for it: load it "
                "with dtype bfloat16 or float32"
            )
        mask = torch.from_numpy(self.allowed(input_ids.tolist()))
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)

    def allowed(self, written: Sequence[Sequence[int]]) -> np.ndarray:
        """(rows, size) bool: what may come next, after as many tokens in each row: one more than asked about before."""
        copies = len(written) // len(self.starts)  # of each prompt: samples or beams
        keys = [(row // copies, tuple(tokens)) for row, tokens in enumerate(written)]
        states = {key: self._state(key) for key in keys}
        self._states = states  # what no row continues is forgotten
        remaining = self.max_new_tokens - len(written[0])
        masks = {key: self._allowed(key, *state, remaining) for key, state in states.items()}
        return np.stack([masks[key] for key in keys])

    def _state(self, key: Key) -> tuple[State, Drawing]:
        if key in self._states:
            return self._states[key]
        prompt, written = key
        state, drawing = self._states[prompt, written[:-1]]
        if state.slot == "done":
            return state, drawing
        if self._profiles is not None:
            drawing = self._profiles.advance(drawing, state, written[-1])
        return self.grammar.advance(state, written[-1], checked=False), drawing

    def _allowed(self, key: Key, state: State, drawing: Drawing, remaining: int) -> np.ndarray:
        if state.slot == "done":  # finished rows are filled up while others go on
            mask = np.zeros(self.grammar.size, bool)
            mask[TOKEN["END"]] = True
            return mask
        mask = self.grammar.allowed(state, remaining)
        if self._profiles is not None:
            mask = self._profiles.restrict(mask, drawing, state)
        prompt, written = key
        return mask & self._next_step if not written and self.starts[prompt] else mask


def choices(grammar: Grammar, program: Sequence[int], max_new_tokens: int) -> np.ndarray:
    """(T, size) bool: among which tokens each of a program's, END included, was chosen when it was written."""
    processor = GrammarProcessor(grammar, max_new_tokens)
    return np.concatenate([processor.allowed([program[:at]]) for at in range(len(program))])
