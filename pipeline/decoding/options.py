"""How programs are decoded: greedy, sampled or with beams."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig


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

    def config(self, end: int) -> "GenerationConfig":
        """As transformers has it, for a model whose programs end with ``end``."""
        from transformers import GenerationConfig

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
