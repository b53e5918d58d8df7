"""Frozen weights in 4 bits (QLoRA, Dettmers et al. 2023), by bitsandbytes."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from pipeline.runtime.errors import UserError


def quantization_config(quantization: str, llm_folder: Path, dtype: torch.dtype) -> Any:
    """The configuration with which ``from_pretrained`` loads weights in 4 bits, or None for ``none``.

    Raises:
        UserError: bitsandbytes is not installed, or the language model's layers do not fit.
    """
    if quantization == "none":
        return None
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            f"{quantization} weights need bitsandbytes ({error}): pip install -c requirements.lock -e .[qlora]; or do "
            "without: training.quantization: none in params.yaml, quantization='none' for CadMllm.from_pretrained"
        ) from error
    _check_sides(quantization, llm_folder, dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_storage=dtype,  # one kind of tensor to shard
    )


def _check_sides(quantization: str, llm_folder: Path, dtype: torch.dtype) -> None:
    """Before anything is loaded: a layer's 4-bit weights have to fill whole numbers of the dtype they are stored in."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(llm_folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config)
    together = 2 * dtype.itemsize
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or layer is model.get_output_embeddings():
            continue
        if layer.weight.numel() % together:
            raise UserError(
                f"training.quantization is {quantization}: {name} of {llm_folder} has sides {layer.out_features} x "
                f"{layer.in_features}, whose product must be a multiple of {together} (4 bits each, kept as "
                f"{str(dtype).removeprefix('torch.')}); set training.quantization to none or take another model"
            )


def keep_unpacked(base: nn.Module) -> None:
    """Have bitsandbytes compute alike on every processor.

    With AVX512-BF16 it rearranges weights at the first pass without gradients, which only sides that are multiples of
    its blocks allow, rounds their scales, and lets no gradient through from then on: what follows the first validation
    would not be training.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
