"""CAD-MLLM on the plain decoder: what ``cadmllm generate`` writes one prompt's programs with, seconds sooner.

It takes any checkpoint that ``fits``, and writes what ``CadMllmModel`` would write, bit for bit; tests compare them.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.decoding.options import Decoding
from pipeline.decoding.plain.llama import PROJECTIONS, Llama, is_plain
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint_folder import CheckpointConfig
from pipeline.runtime.errors import TOLD, UserError, system_error
from pipeline.runtime.state_dicts import read_safetensors
from pipeline.settings.memory import is_out_of_memory

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
# Kinds of tokenizers that are what their file says.
AS_STORED = ("TokenizersBackend", "PreTrainedTokenizerFast")
Processor = Callable[[Tensor, Tensor], Tensor]


def fits(config: CheckpointConfig, llm_folder: Path, device: torch.device) -> bool:
    """Whether a checkpoint on this language model is one for ``PlainModel``: a GPU rounds otherwise."""
    known = {name for names in PROJECTIONS.values() for name in names}
    lora = config.model.lora
    whole = (
        device.type == "cpu"
        and config.model.vocabulary == "cad"
        and (config.dtype, config.quantization) == ("float32", "none")
    )
    try:
        described = json.loads((llm_folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((llm_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        stored = tokenizer["tokenizer_class"] in AS_STORED and (llm_folder / WEIGHTS).is_file()
        return whole and stored and {*lora.target_modules} <= known and is_plain(described)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False  # transformers will say what is wrong


class PlainTokenizer:
    """A tokenizer's file, as much of it as prompts need."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(path))
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        """``input_ids`` of a text."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        known: dict[str, int] = self.backend_tokenizer.get_vocab()
        return known


class PlainModel(CadMllmModel):
    """The model of a checkpoint that ``fits``, for one prompt at a time."""

    def _read(self, llm_folder: Path, _: torch.device) -> Any:
        try:
            self.tokenizer = PlainTokenizer(llm_folder / TOKENIZER)
            config = json.loads((llm_folder / "config.json").read_text(encoding="utf-8"))
            weights = read_safetensors(llm_folder / WEIGHTS)
            return Llama(config, {name: tensor.to(self.dtype) for name, tensor in weights.items()})
        except Exception as error:  # tokenizers raise nothing more telling
            if is_out_of_memory(error) or system_error(error) in TOLD:
                raise
            raise UserError(f"{llm_folder} holds no language model ({error}); run `cadmllm models`") from error

    def _adapted(self, base: Llama, _: Path) -> Llama:
        for name, projection in base.projections():
            if name.rpartition(".")[2] in self.params.lora.target_modules:
                projection.adapt(self.params.lora)
        return base

    @property
    def causal_lm(self) -> Llama:
        """The language model."""
        llm: Llama = self.llm
        return llm

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's matrices as PEFT names them in a file."""
        return {
            f"base_model.model.model.{name}.{part}.weight": matrix
            for name, projection in self.causal_lm.projections()
            for part, matrix in (("lora_A", projection.lora_A), ("lora_B", projection.lora_B))
            if matrix is not None
        }

    def load_adapter(self, tensors: dict[str, Tensor]) -> None:
        """Take the matrices of a file; their names and shapes are known to fit."""
        for name, matrix in self.adapter().items():
            matrix.copy_(tensors[name])

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """The adapter within the weights."""
        for _, projection in self.causal_lm.projections():
            projection.merge(True)
        try:
            yield
        finally:
            for _, projection in self.causal_lm.projections():
                projection.merge(False)

    def _decode_row(self, embedded_1LE: Tensor, lengths: tuple[int, ...]) -> Tensor:
        return self.causal_lm.row(embedded_1LE, lengths)

    def write(self, embedded_1LE: Tensor, decoding: Decoding, processors: Sequence[Processor]) -> list[list[int]]:
        """Token ids after a prompt, END included: greedy or sampled, as ``transformers.generate`` draws them."""
        llm, end = self.causal_lm, self.notation.end
        written = torch.empty(decoding.num_samples, 0, dtype=torch.long, device=embedded_1LE.device)
        going = torch.ones(decoding.num_samples, dtype=torch.bool, device=embedded_1LE.device)
        given, kept = embedded_1LE.expand(decoding.num_samples, -1, -1), None
        for _ in range(decoding.max_new_tokens):
            scores, kept = llm.logits(given, kept)
            for process in processors:
                scores = process(written, scores)
            tokens = scores.argmax(dim=-1) if decoding.temperature == 0 else _sampled(scores, decoding)
            tokens = tokens.where(going, end)
            written = torch.cat([written, tokens[:, None]], dim=1)
            going &= tokens != end
            if not going.any():
                break
            given = llm.get_input_embeddings()(tokens[:, None])
        found: list[list[int]] = written.tolist()
        return found


def _sampled(scores: Tensor, decoding: Decoding) -> Tensor:
    if decoding.temperature != 1:
        scores = scores / decoding.temperature
    if decoding.top_p < 1:
        ascending, order = scores.sort(descending=False)
        unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - decoding.top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    return torch.multinomial(F.softmax(scores, dim=-1), num_samples=1).squeeze(1)
