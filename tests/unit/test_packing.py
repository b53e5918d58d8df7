"""Sequences in one row are computed as each would be alone, whatever the architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.model import packing
from pipeline.model.packing import ATTENTION, decode_row, enable_packing

LENGTHS = (9, 1, 14, 5)
TINY = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**TINY, "num_key_value_heads": 2}
IN_A_ROW = {
    "llama": GROUPED,
    "qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "sliding_window": 6},
    "gemma3_text": {
        **GROUPED, "head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4},
}  # fmt: skip
PADDED = {
    "bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4},  # attention of its own
    "mamba": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},  # a state, no attention
    "gemma2": {**GROUPED, "head_dim": 8},  # capped logits, which the fused attention lacks
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},  # a convolution reaches over a sequence's begin
    "llama4_text": {**GROUPED, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2},  # chunks
}


@pytest.mark.parametrize("kind", [*IN_A_ROW, *PADDED])
def test_a_row_of_sequences_is_each_of_them_alone(kind):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**IN_A_ROW, **PADDED}[kind])).eval()
    decoder = getattr(llm, "model", llm.base_model)
    row = torch.randn(1, sum(LENGTHS), 32, requires_grad=True)
    alone = [decoder(inputs_embeds=part, use_cache=False).last_hidden_state for part in row.split(LENGTHS, dim=1)]
    (alone_grad,) = torch.autograd.grad(sum(part.square().sum() for part in alone), row)
    enable_packing(llm)
    assert (llm.config._attn_implementation == ATTENTION) == (kind in IN_A_ROW)
    together = decode_row(decoder, row, LENGTHS)
    (together_grad,) = torch.autograd.grad(together.square().sum(), row)
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together_grad, alone_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", IN_A_ROW)
def test_on_cuda_all_at_once_gives_what_one_by_one_does(kind, monkeypatch):
    torch.manual_seed(0)
    llm = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **IN_A_ROW[kind])).eval().to("cuda", torch.bfloat16)
    )
    enable_packing(llm)
    row = torch.randn(1, sum(LENGTHS), 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    found = []
    for needed in (packing.FLASH, (99, 0)):
        monkeypatch.setattr(packing, "FLASH", needed)
        hidden = decode_row(getattr(llm, "model", llm.base_model), row, LENGTHS)
        found.append((hidden, *torch.autograd.grad(hidden.float().square().sum(), row)))
    for at_once, one_by_one in zip(*found, strict=True):
        assert (at_once - one_by_one).float().norm() < 0.02 * one_by_one.float().norm()


def test_what_was_prepared_still_reads_a_rectangle_with_its_mask():
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED)).eval()
    ids, mask = torch.randint(50, (2, 7)), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    before = llm.generate(ids, **options)
    enable_packing(llm)
    assert torch.equal(llm.generate(ids, **options), before)
