"""How a program is written to the language model: in CAD tokens of its own, or as plain text in the model's tokens."""

from collections.abc import Sequence
from typing import Any, Protocol

from pipeline.cad.language.grammar import Grammar
from pipeline.cad.language.tokens import TOKEN, GrammarError


class Notation(Protocol):
    """Programs to token ids of the language model, and back.

    Attributes:
        end: the id that ends a program.
    """

    end: int

    def write(self, program: Sequence[int]) -> list[int]:
        """The ids of a program in CAD tokens, END included."""

    def start(self, program: Sequence[int]) -> list[int]:
        """The ids of the first extrusions of a program, without END, which the model is to go on from."""

    def read(self, ids: Sequence[int]) -> list[int]:
        """The CAD tokens of generated ids, up to the end; what is none is left out with all that follows."""


class CadNotation:
    """CAD tokens as they are: the model's vocabulary is the grammar's."""

    end = TOKEN["END"]

    def write(self, program: Sequence[int]) -> list[int]:
        """As they come: a program ends in END already."""
        return list(program)

    def start(self, program: Sequence[int]) -> list[int]:
        """As they come."""
        return list(program)

    def read(self, ids: Sequence[int]) -> list[int]:
        """Up to END; without one, all."""
        ids = list(ids)
        return ids[: ids.index(self.end) + 1] if self.end in ids else ids


class TextNotation:
    """Names and numbers written out, as most language models for CAD are trained: three to four times as long.

    Args:
        grammar: whose tokens are named.
        tokenizer: the language model's own; it must have an end token.
    """

    def __init__(self, grammar: Grammar, tokenizer: Any) -> None:
        self.grammar, self.tokenizer = grammar, tokenizer
        self.end: int = tokenizer.eos_token_id

    def write(self, program: Sequence[int]) -> list[int]:
        """The names of its tokens, then the tokenizer's end in place of END."""
        return [*self.start([token for token in program if token != TOKEN["END"]]), self.end]

    def start(self, program: Sequence[int]) -> list[int]:
        """The names of these tokens, with a space between."""
        text = " ".join(self.grammar.name(token) for token in program)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def read(self, ids: Sequence[int]) -> list[int]:
        """The names that the text begins with, up to the first that the grammar does not know."""
        ids = list(ids)
        whole = self.end in ids
        tokens: list[int] = []
        try:
            for name in self.tokenizer.decode(ids[: ids.index(self.end)] if whole else ids).split():
                tokens.append(self.grammar.token(name))  # noqa: PERF401 - what was read before a fault is kept
        except GrammarError:
            return tokens
        return [*tokens, TOKEN["END"]] if whole else tokens
