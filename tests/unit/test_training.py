"""The parts of a step: a loss that never holds all logits, fused operations, counted work, logs, retention."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pipeline.curriculum.log import StageLog, read_log
from pipeline.curriculum.retention import lineage_chain, text_retention
from pipeline.model.checkpoint_folder import LOG
from pipeline.model.fused import fuse
from pipeline.model.inputs import collate
from pipeline.model.loss import cross_entropy_sum
from pipeline.model.vocabulary import TextEmbedding
from pipeline.training.complexity import participation_ratio
from pipeline.training.meters import FlopCount
from pipeline.training.state import Position, latest_state, read_state, save_state, saved_states
from tests.unit.conftest import inputs


@pytest.mark.parametrize("logits_at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunked_loss_and_its_gradients_are_those_of_plain_cross_entropy(logits_at_once, dtype):
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8, dtype=dtype), torch.randn(11, 8)
    targets = torch.randint(0, 11, (23,))
    found, expected = [], []
    for losses, function in ((found, "chunked"), (expected, "plain")):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if function == "chunked":
            loss = cross_entropy_sum(h, w, targets, logits_at_once)
        else:
            loss = F.cross_entropy(h.float() @ w.T, targets, reduction="sum")
        (loss / 7).backward()
        losses += [loss.detach(), h.grad.float(), w.grad]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 if dtype == torch.bfloat16 else 1e-5
        )


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16])
def test_in_float16_gradients_are_scaled_before_they_are_rounded(weight_dtype):
    """Those of small weights, and of targets that the model is sure of, would be lost otherwise."""
    torch.manual_seed(0)
    weight, targets = (torch.randn(11, 8) * 1e-4).to(weight_dtype), torch.randint(0, 11, (23,))
    hidden = (weight[targets].float() * 5e7).half()
    scale, given = 2.0**16, hidden.clone().requires_grad_()
    (cross_entropy_sum(given, weight, targets, 50) * scale).backward()
    exact = hidden.float().requires_grad_()
    F.cross_entropy(exact @ weight.float().T, targets, reduction="sum").backward()
    error = (given.grad.float() / scale - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert float(error.max()) < 0.02  # 0.08 where they are rounded first


def small_decoder(model_type="llama", **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, **changes,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_config(config)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return adapted


DECODERS = {  # each with the numbers of its MLPs and norms that are fused
    "llama": ({}, 2, 5),
    "llama with biases": ({"attention_bias": True, "mlp_bias": True}, 0, 5),
    "qwen2": ({"model_type": "qwen2"}, 2, 5),  # biases of q, k and v
    "qwen3": ({"model_type": "qwen3", "head_dim": 12}, 2, 9),  # norms of q and k
}


@pytest.mark.parametrize(("changes", "mlps", "norms"), DECODERS.values(), ids=DECODERS)
def test_fused_operations_give_the_same_numbers_and_gradients(changes, mlps, norms):
    plain, fused = small_decoder(**changes), small_decoder(**changes)
    assert fuse(fused) == {"lora": 6, "mlp": mlps, "norm": norms}
    x = torch.randn(3, 17, 32)
    results = []
    for llm in (plain, fused):
        given = x.clone().requires_grad_()
        out = llm(inputs_embeds=given).logits
        out.square().mean().backward()
        grads = {name: p.grad for name, p in llm.named_parameters() if p.requires_grad}
        results.append((out.detach(), given.grad, grads))
    (out, grad, grads), (out_fused, grad_fused, grads_fused) = results
    torch.testing.assert_close(out, out_fused, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, grad_fused, rtol=1e-4, atol=1e-7)
    assert grads.keys() == grads_fused.keys()
    for name, value in grads.items():
        torch.testing.assert_close(value, grads_fused[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_adapters_can_still_be_switched_off_and_merged(model_type):
    plain, fused = small_decoder(model_type), small_decoder(model_type)
    fuse(fused)
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        with plain.disable_adapter(), fused.disable_adapter():
            torch.testing.assert_close(plain(inputs_embeds=x).logits, fused(inputs_embeds=x).logits)
        before = fused(inputs_embeds=x).logits
        torch.testing.assert_close(fused.merge_and_unload()(inputs_embeds=x).logits, before)


def test_lora_with_dropout_stays_as_peft_has_it():
    base = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                        num_attention_heads=1))  # fmt: skip
    adapted = get_peft_model(base, LoraConfig(lora_dropout=0.5, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert fuse(adapted)["lora"] == 0


def test_counted_work_is_what_torch_counts(model):
    batch = collate(inputs(model)[3:], model.num_tokens())  # one sequence: no padding
    model.set_trainable_params(True, ("point_cloud", "image"), "new")
    for module in model.modules():
        module.__dict__.pop("forward", None)  # operations that torch can see into
    with FlopCounterMode(display=False) as counter:
        model(batch).backward()
    length, config = batch.lengths[0], model.causal_lm.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Torch counts attention as a full square, its backward pass as 2.5 times the forward, and on a CPU not at all.
    attention = 3 * 2 * config.num_hidden_layers * config.num_attention_heads * head_dim * length**2
    assert counter.get_total_flops() == pytest.approx(FlopCount(model)(batch) - attention, rel=0.02)


def test_text_rows_are_trained_in_place_of_the_table(model):
    embedding = TextEmbedding(torch.nn.Embedding(10, 4))
    table = embedding.table.weight.clone()
    embedding.free([7, 3])
    embedding.free([5, 3])
    assert embedding.trained_ids().tolist() == [3, 5, 7]
    with torch.no_grad():
        embedding.rows[2] = 9.0
    embedding.free([4])
    assert embedding(torch.tensor([7, 4])).tolist() == [[9.0] * 4, table[4].tolist()]
    with torch.no_grad():
        embedding.rows[3] = table[7]
    torch.testing.assert_close(embedding(torch.arange(10)), table)
    embedding(torch.tensor([[3, 5, 9]])).sum().backward()
    assert embedding.rows.grad.sum(dim=1).tolist() == [4, 0, 4, 0]
    assert embedding.table.weight.grad is None


def test_participation_ratio_counts_filled_dimensions():
    rng = np.random.default_rng(0)
    assert participation_ratio(rng.normal(size=(20_000, 8))) == pytest.approx(8, rel=0.01)
    assert participation_ratio(np.outer(rng.normal(size=500), np.ones(8))) == pytest.approx(1)
    assert participation_ratio(np.ones((5, 3))) == 1


def test_a_log_is_cut_back_to_the_state_that_is_resumed(tmp_path):
    path, speed, heard = tmp_path / "log.jsonl", tmp_path / "logs/speed.jsonl", []
    log = StageLog(path, 0, speed, True, heard.append)
    log.write("validation", 0, loss={"text": 2.0})
    length = log.sync()
    log.write("train", 1, loss=1.0)
    log.write_speed(1, tokens_per_s=3.0)
    again = StageLog(path, length, speed, True, heard.append)
    again.write("train", 1, loss=1.0)
    assert [line["event"] for line in read_log(path)] == ["validation", "train"]
    assert again.validations()[0]["loss"] == {"text": 2.0}
    assert [line["event"] for line in heard] == ["validation", "train", "speed", "train"]
    assert [json.loads(line)["tokens_per_s"] for line in speed.read_text().splitlines()] == [3.0]
    reader = StageLog(path, length, speed, False, heard.append)
    reader.write("train", 9, loss=0.0)
    assert len(list(read_log(path))) == 2


def test_a_log_is_cut_in_place(tmp_path, monkeypatch):
    path, speed = tmp_path / "log.jsonl", tmp_path / "speed.jsonl"
    log = StageLog(path, 0, speed, True, lambda _: None)
    log.write("train", 1, loss=1.0)
    length, kept = log.sync(), path.read_bytes()
    log.write("train", 2, loss=1.0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for write in ("write_bytes", "write_text"):  # they empty the file first
            patch.setattr(type(path), write, killed)
        StageLog(path, length, speed, True, lambda _: None)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("damaged", ["state.safetensors", "position.json", "log"])
def test_a_state_that_a_disk_has_damaged_is_not_gone_on_from(tmp_path, damaged):
    log, said = StageLog(tmp_path / LOG, 0, tmp_path / "speed.jsonl", True, lambda _: None), []
    for step in (1, 2):
        log.write("train", step, loss=1.0)
        position = Position(step, log_bytes=log.sync())
        save_state(tmp_path, position, {"part": {"x": torch.full((8,), float(step))}}, {}, keep=2)
    first, second = saved_states(tmp_path)
    assert latest_state(tmp_path, said.append) == second
    path, at = (tmp_path / LOG, -5) if damaged == "log" else (second / damaged, 40)
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)
    assert latest_state(tmp_path, said.append) == first
    assert saved_states(tmp_path) == [first]
    assert len(said) == 1
    assert read_state(first)[0].step == 1
    path = first / "state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert latest_state(tmp_path, said.append) is None


def test_retention_compares_with_the_first_stage():
    first = {"stage": "a", "validation": {"text": 2.0}, "parent": None}
    second = {"stage": "b", "validation": {"text+image": 1.0}, "parent": first}
    third = {"stage": "c", "validation": {"text": 3.0}, "parent": second}
    assert [each["stage"] for each in lineage_chain(third)] == ["c", "b", "a"]
    assert text_retention(third) == 1.5
    assert text_retention(second) is None
    assert text_retention(first) is None
