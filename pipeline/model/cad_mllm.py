"""CAD-MLLM: a language model with LoRA that reads projected features and text and writes CAD tokens.

    [image tokens] [point tokens] [instruction + caption] [CAD program] [end]
       projector      projector         LLM embeddings       loss here only

Shapes: B samples, L positions, E the language model's width, P loss positions, C CAD tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from pipeline.cad.grammar import Grammar
from pipeline.errors import UserError
from pipeline.model.notation import CadNotation, Notation, TextNotation
from pipeline.model.projector import ModalityProjector
from pipeline.model.vocabulary import initial_rows
from pipeline.params import ModelParams

INSTRUCTION = "CAD program: "


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of different make-up in one rectangle.

    Every embedding that occurs is computed once, in four flat lists one after the other (text, CAD, points,
    images) behind one row of zeros; ``gather_BL`` says which of them stands at each position.

    Attributes:
        text_ids, cad_ids: (tokens,) int64.
        points: (clouds, T, D) or None; images: (samples, V, T, D) or None, with view numbers (samples, V).
        gather_BL: (B, L) int64; 0 is padding.
        loss_positions: (P,) int64 into the flattened rectangle: where the next token is predicted.
        targets: (P,) int64.
    """

    text_ids: Tensor
    cad_ids: Tensor
    points: Tensor | None
    images: Tensor | None
    views: Tensor | None
    gather_BL: Tensor
    loss_positions: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""

        moved: dict[str, Any] = {
            name: None if value is None else value.to(device, non_blocking=True)
            for name in self.__dataclass_fields__
            for value in (getattr(self, name),)
        }
        return Batch(**moved)


def _embedding(rows: Tensor) -> nn.Embedding:
    embedding = nn.Embedding(*rows.shape)
    embedding.weight = nn.Parameter(rows)
    return embedding


class CadMllm(nn.Module):
    """The model. Base weights and text embeddings are frozen; LoRA, CAD rows and projectors are trained.

    Args:
        llm_folder: a plain Hugging Face causal language model.
        params: LoRA, projectors and limits.
        grammar: gives the CAD vocabulary.
        seed: of everything that starts at random.
        dtype: of the frozen weights.
    """

    def __init__(self, llm_folder: Path, params: ModelParams, grammar: Grammar, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.params, self.grammar, self.seed, self.dtype = params, grammar, seed, dtype
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(llm_folder, local_files_only=True)
            base = AutoModelForCausalLM.from_pretrained(llm_folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{llm_folder} holds no language model ({error}); run `cadmllm models`") from error
        self.text_embedding: nn.Embedding = base.get_input_embeddings().requires_grad_(False)
        if params.vocabulary == "cad":
            self.notation: Notation = CadNotation()
            self._set_vocabulary(base)
        else:
            self.notation = TextNotation(grammar, self.tokenizer)
        set_seed(seed)
        lora = params.lora
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        )
        try:
            self.llm = get_peft_model(base, config)
        except ValueError as error:
            raise UserError(
                f"model.lora.target_modules {list(lora.target_modules)} do not fit {llm_folder}: {error}"
            ) from error
        self.feature_shapes: dict[str, tuple[int, ...]] = {}
        self.feature_details: dict[str, dict[str, Any]] = {}
        self.projectors = nn.ModuleDict()

    def _set_vocabulary(self, base: Any) -> None:
        """Let the language model read and write CAD tokens in place of its own."""
        rows, outputs = initial_rows(self.grammar, self.text_embedding.weight, self.seed)
        base.set_input_embeddings(_embedding(rows))
        head = nn.Linear(rows.shape[1], self.grammar.size, bias=False)
        head.weight = nn.Parameter(outputs)
        base.config.tie_word_embeddings = False
        base.set_output_embeddings(head)
        base.config.vocab_size = self.grammar.size

    @property
    def causal_lm(self) -> Any:
        """The transformers model with LoRA layers in it; its vocabulary is that of the notation."""
        return self.llm.get_base_model()

    @property
    def width(self) -> int:
        """E."""
        return self.text_embedding.embedding_dim

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def add_projector(self, modality: str, shape: tuple[int, ...], details: dict[str, Any]) -> None:
        """Give a modality its projector.

        Args:
            shape: of one sample's features: (T, D), or (V, T, D) for views.
            details: how they were made (encoder, settings); kept so that a user's own input can be encoded alike.
        """
        set_seed(self.seed)
        std = float(self.text_embedding.weight.float().std())
        self.projectors[modality] = ModalityProjector(
            getattr(self.params.projectors, modality), shape, self.width, std
        ).to(self.device)
        self.feature_shapes[modality] = shape
        self.feature_details[modality] = details

    def num_tokens(self, num_views: int | None = None) -> dict[str, int]:
        """Positions that each modality takes in a sequence that shows it, with so many views (as trained, if None)."""
        views = self.params.views_per_sample if num_views is None else num_views
        shapes = self.feature_shapes
        return {name: p.num_tokens(shapes[name], views) for name, p in self.projectors.items()}  # type: ignore[operator]

    # -- trained parts -----------------------------------------------------------------------------------

    def vocabulary(self) -> dict[str, nn.Parameter]:
        """The CAD rows, where they are read and where they are predicted; none where programs are text."""
        if self.params.vocabulary == "text":
            return {}
        base = self.causal_lm
        return {"input": base.get_input_embeddings().weight, "output": base.get_output_embeddings().weight}

    def lora(self) -> dict[str, nn.Parameter]:
        """The adapter's matrices by name."""
        return {name: p for name, p in self.llm.named_parameters() if "lora_" in name}

    def set_trainable_params(self, train_llm: bool, train_projectors: dict[str, bool]) -> None:
        """Choose what is trained: LoRA with the CAD rows, and each projector. Everything else stays frozen."""
        self.requires_grad_(False)
        for parameter in (*self.lora().values(), *self.vocabulary().values()):
            parameter.requires_grad_(train_llm)
        for modality, projector in self.projectors.items():
            projector.requires_grad_(train_projectors.get(modality, False))

    # -- forward -----------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """(B, L, E) embeddings of whole sequences; padding is zero."""
        parts = [self.text_embedding(batch.text_ids).float(), self.causal_lm.get_input_embeddings()(batch.cad_ids)]
        if batch.points is not None:
            parts.append(self.projectors["point_cloud"](batch.points.float(), None).flatten(0, 1))
        if batch.images is not None:
            parts.append(self.projectors["image"](batch.images.float(), batch.views).flatten(0, 1))
        flat = torch.cat([parts[0].new_zeros(1, self.width), *(part.float() for part in parts)])
        return F.embedding(batch.gather_BL, flat)

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the cross-entropy over the batch's target tokens, in float32; logits only where the loss is."""
        base = self.causal_lm
        hidden_BLE = base.model(
            inputs_embeds=self.embed(batch).to(self.dtype), attention_mask=batch.gather_BL.ne(0).long(), use_cache=False
        ).last_hidden_state
        hidden_PE = hidden_BLE.flatten(0, 1)[batch.loss_positions]
        head = base.get_output_embeddings()
        logits_PC = head(hidden_PE.to(head.weight.dtype))
        return F.cross_entropy(logits_PC.float(), batch.targets, reduction="sum")
