"""CAD-MLLM: a language model with LoRA that reads projected features and text and writes CAD tokens.

    [image tokens] [point tokens] [instruction + caption] [CAD program] [end]
       projector      projector         LLM embeddings       loss here only

Shapes: B rows, L positions, E the language model's width, P loss positions, C CAD tokens.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.cad.language.grammar import Grammar
from pipeline.model.loss import cross_entropy_sum
from pipeline.model.notation import CadNotation, Notation, TextNotation
from pipeline.model.projector import ModalityProjector
from pipeline.model.settings import Lora, ModelParams
from pipeline.model.vocabulary import CadEmbedding, CadHead, TextEmbedding, initial_rows, pretrained_rows
from pipeline.runtime.errors import UserError
from pipeline.settings.memory import is_out_of_memory

INSTRUCTION = "CAD program: "
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of different make-up, one after the other in a single row; for generation in a rectangle.

    Every embedding that occurs is computed once, in four flat lists one after the other (text, CAD, points,
    images) behind one row of zeros; ``gather_BL`` says which of them stands at each position.

    Attributes:
        text_ids, cad_ids: (tokens,) int64.
        points: (clouds, T, D) or None; images: (samples, V, T, D) or None, with view numbers (samples, V).
        gather_BL: (B, L) int64; 0 is padding.
        loss_positions: (P,) int64 into the flattened rows: where the next token is predicted.
        targets: (P,) int64.
        lengths: of each sequence, padding left out; known without asking a GPU.
        weights: (P,) float32 of the targets' losses; None: 1.
        allowed: (P, C) bool, tokens among which each target was chosen; None: all.
        temperature: at which it was.
    """

    text_ids: Tensor
    cad_ids: Tensor
    points: Tensor | None
    images: Tensor | None
    views: Tensor | None
    gather_BL: Tensor
    loss_positions: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    weights: Tensor | None = None
    allowed: Tensor | None = None
    temperature: float = 1.0

    @property
    def num_tokens(self) -> int:
        """Positions that are filled."""
        return sum(self.lengths)

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        changed: dict[str, Any] = {n: change(value) if isinstance(value, Tensor) else value for n, value in values}
        return Batch(**changed)


class CadMllmModel(nn.Module):
    """The model. Base weights are frozen; LoRA, embeddings and projectors are trained as a stage says.

    Args:
        llm_folder: a plain Hugging Face causal language model.
        params: LoRA, projectors and limits.
        grammar: gives the CAD vocabulary.
        seed: of everything that starts at random.
        dtype: of the frozen weights.
        quantization: ``nf4`` keeps them in 4 bits (QLoRA), and computes in ``dtype``.
        device: where it is to be.
    """

    def __init__(
        self,
        llm_folder: Path,
        params: ModelParams,
        grammar: Grammar,
        seed: int,
        dtype: torch.dtype,
        quantization: str = "none",
        device: torch.device = CPU,
    ) -> None:
        super().__init__()
        self.params, self.grammar, self.seed = params, grammar, seed
        self.dtype, self.quantization = dtype, quantization
        base = self._read(llm_folder, device)
        self.text_embedding = TextEmbedding(base.get_input_embeddings())
        if params.vocabulary == "cad":
            self.notation: Notation = CadNotation()
            self._set_vocabulary(base)
        else:
            self.notation = TextNotation(grammar, self.tokenizer)
            base.set_input_embeddings(self.text_embedding)
        torch.manual_seed(seed)
        self.llm: Any = self._adapted(base, llm_folder)
        self.feature_shapes: dict[str, tuple[int, ...]] = {}
        self.feature_details: dict[str, dict[str, Any]] = {}
        self.projectors = nn.ModuleDict()
        self.to(device)

    def _read(self, llm_folder: Path, device: torch.device) -> Any:
        """The frozen language model; its tokenizer is kept.

        Raises:
            UserError: there is none.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from pipeline.model.quantization import keep_unpacked, quantization_config

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                llm_folder, local_files_only=True, trust_remote_code=False
            )
            base = AutoModelForCausalLM.from_pretrained(
                llm_folder,
                dtype=self.dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                quantization_config=quantization_config(self.quantization, llm_folder, self.dtype),
                # Put into 4 bits where they are to stay: transformers alone would take any GPU that it finds.
                device_map=None if self.quantization == "none" else {"": device},
            )
        except (OSError, ValueError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"{llm_folder} holds no language model ({error}); run `cadmllm models`") from error
        keep_unpacked(base)
        return base

    def _adapted(self, base: Any, llm_folder: Path) -> Any:
        """The language model with LoRA, prepared for sequences in a row."""
        from pipeline.model.fused import fuse
        from pipeline.model.packing import enable_packing

        llm = _with_lora(base, self.params.lora, llm_folder)
        fuse(llm)
        enable_packing(llm.get_base_model())
        return llm

    def _set_vocabulary(self, base: Any) -> None:
        """Let the language model read and write CAD tokens in place of its own."""
        rows, outputs = pretrained_rows(self.grammar, self.tokenizer, base) or initial_rows(
            self.grammar, self.text_embedding.table.weight, self.seed
        )
        base.set_input_embeddings(CadEmbedding(rows, self.dtype))
        base.config.tie_word_embeddings = False
        base.set_output_embeddings(CadHead(outputs))
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
        """Where all of it is; of a sharded model, this process' part."""
        return next(self.parameters()).device

    def add_projector(self, modality: str, shape: tuple[int, ...], details: dict[str, Any]) -> None:
        """Give a modality its projector.

        Args:
            shape: of one sample's features: (T, D), or (V, T, D) for views.
            details: how they were made (encoder, settings); kept so that a user's own input can be encoded alike.
        """
        torch.manual_seed(self.seed)
        std = float(self.text_embedding.table.weight.float().std())
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

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's matrices as PEFT names them in a file."""
        from peft import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(self.llm, save_embedding_layers=False)
        return found

    def load_adapter(self, tensors: dict[str, Tensor]) -> None:
        """Take the matrices of a file; their names and shapes are known to fit."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.llm, tensors)

    def lora(self) -> dict[str, nn.Parameter]:
        """The adapter's matrices by name."""
        return {name: p for name, p in self.llm.named_parameters() if "lora_" in name}

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """The adapter within the weights, so that each is multiplied once; afterwards they are bit for bit as before.

        Only for whole weights in float32: in others it would be rounded away.
        """
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self.llm.modules() if isinstance(module, LoraLayer)]
        bases = [(layer, layer.get_base_layer()) for layer in layers]
        # Weights in 4 bits are stored in a tensor of any dtype.
        whole = [(layer, b) for layer, b in bases if type(b) is nn.Linear and b.weight.dtype == torch.float32]
        kept = [(layer, base, base.weight.data) for layer, base in whole]
        try:
            for layer, _, _ in kept:
                layer.merge(safe_merge=True)
            yield
        finally:
            for layer, base, weight in kept:
                base.weight.data = weight
                layer.merged_adapters.clear()

    def text_rows(self) -> dict[str, Tensor]:
        """The rows of the language model's own embeddings that are or were trained, and their token ids."""
        rows = self.text_embedding.rows
        return {} if rows is None else {"ids": self.text_embedding.trained_ids(), "rows": rows}

    def set_trainable_params(
        self, train_llm: bool, train_projectors: Collection[str], text_embeddings: str, text_ids: Collection[int] = ()
    ) -> None:
        """Choose what is trained; everything else stays frozen, encoders above all: they are not even here.

        Args:
            train_llm: LoRA.
            train_projectors: modalities.
            text_embeddings: ``new``, ``all`` or ``none``, as ``CurriculumStage`` has it.
            text_ids: for ``all``, tokens that occur in captions.
        """
        self.requires_grad_(False)
        for parameter in self.lora().values():
            parameter.requires_grad_(train_llm)
        for parameter in self.vocabulary().values():
            parameter.requires_grad_(text_embeddings != "none")
        if text_embeddings == "all":
            self.text_embedding.free(text_ids)
        if self.text_embedding.rows is not None:
            self.text_embedding.rows.requires_grad_(text_embeddings == "all")
        for modality, projector in self.projectors.items():
            projector.requires_grad_(modality in train_projectors)

    # -- forward -----------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """(B, L, E) embeddings of whole sequences; padding is zero."""
        parts = [self.text_embedding(batch.text_ids), self.causal_lm.get_input_embeddings()(batch.cad_ids)]
        if batch.points is not None:
            parts.append(self.projectors["point_cloud"](batch.points.float(), None).flatten(0, 1))
        if batch.images is not None:
            parts.append(self.projectors["image"](batch.images.float(), batch.views).flatten(0, 1))
        zero = torch.zeros(1, self.width, device=parts[0].device)
        flat = torch.cat([zero, *(part.float() for part in parts)])
        return F.embedding(batch.gather_BL, flat)

    def hidden(self, batch: Batch) -> Tensor:
        """(P, E) what the decoder says where a next token is predicted, of sequences in a single row."""
        hidden_1LE = self._decode_row(self.embed(batch).to(self.dtype), batch.lengths)
        return hidden_1LE[0, batch.loss_positions]

    def _decode_row(self, embedded_1LE: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(1, L, E) what the decoder makes of sequences of these lengths in a row."""
        from pipeline.model.packing import decode_row

        return decode_row(self.causal_lm.model, embedded_1LE, lengths)

    def forward(self, batch: Batch) -> Tensor:
        """Weighted sum of the cross-entropy over the batch's targets, in float32; logits only where the loss is."""
        hidden_PE, weight_CE = self.hidden(batch), self.causal_lm.get_output_embeddings().weight
        if batch.temperature != 1:
            hidden_PE = hidden_PE / batch.temperature
        loss = cross_entropy_sum(hidden_PE, weight_CE, batch.targets, weights_P=batch.weights, allowed_PC=batch.allowed)
        return loss + self._unused(batch)

    def _unused(self, batch: Batch) -> Tensor:
        """Zero, of the trained projectors that this batch has no use for.

        So a parameter's gradient is zero, not missing, whatever share of a step a process happens to see.
        """
        shown = {"point_cloud": batch.points, "image": batch.images}
        unused = [p for m, projector in self.projectors.items() if shown[m] is None for p in projector.parameters()]
        return sum(
            (0 * p.flatten()[0] for p in unused if p.requires_grad), torch.zeros((), device=batch.gather_BL.device)
        )


def _with_lora(base: Any, lora: Lora, llm_folder: Path) -> Any:
    """PEFT's model around the language model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise UserError(
            f"model.lora.target_modules {list(lora.target_modules)} do not fit {llm_folder}: {error}"
        ) from error
