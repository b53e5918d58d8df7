"""The model: exact losses, absent modalities, checkpoints that fit or fail."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoTokenizer

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Frame
from pipeline.cad.language.tokens import TOKEN
from pipeline.cad.parts import synthesis
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.model.cad_mllm import INSTRUCTION, CadMllmModel
from pipeline.model.checkpoint import load_checkpoint, save_checkpoint, trained_tensors
from pipeline.model.inputs import Inputs, collate, tokenise_prompts
from pipeline.runtime.device import autocast
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.training.optimizer import make_optimizer
from pipeline.training.parallel import Parallel
from pipeline.training.state import Position, collect_moments, load_moments, load_state, save_state
from pipeline.weights.resolve import build_models
from tests.unit.conftest import DETAILS, GRAMMAR, inputs


def test_the_loss_does_not_depend_on_batching_and_padding(model):
    items = inputs(model)
    together = model(collate(items, model.num_tokens()))
    alone = sum(model(collate([item], model.num_tokens())) for item in items)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


def test_the_loss_is_that_of_a_plain_forward_pass(model):
    (item,) = inputs(model)[3:]
    base = model.causal_lm
    parts = [
        model.projectors["image"](torch.from_numpy(item.image).float()[None], torch.tensor([[0, 1]]))[0],
        model.projectors["point_cloud"](torch.from_numpy(item.points).float()[None], None)[0],
        model.text_embedding(torch.tensor(item.prompt)),
        base.get_input_embeddings()(torch.tensor(item.program)),
    ]
    logits = base(inputs_embeds=torch.cat(parts)[None]).logits[0]
    program = torch.tensor(item.program)
    expected = F.cross_entropy(logits[-len(program) - 1 : -1], program, reduction="sum")
    torch.testing.assert_close(model(collate([item], model.num_tokens())), expected, rtol=1e-5, atol=1e-4)


def test_prompts_have_the_ids_that_the_tokenizer_gives(built, tmp_path):
    """Also where its file says that it pads and cuts."""
    captions = ["a plate", "", "«a» longer\n caption  of a part 12 mm thick <|endoftext|>"]
    tokenizer = AutoTokenizer.from_pretrained(built("llama tied"))
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (INSTRUCTION, "\n"))
    expected = [head + tokenizer(text, add_special_tokens=False)["input_ids"][:20] + tail for text in captions]
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer.save_pretrained(tmp_path)
    stored = AutoTokenizer.from_pretrained(tmp_path)
    assert stored.backend_tokenizer.truncation is not None
    assert tokenise_prompts(stored, captions, 20) == expected


def test_the_end_token_is_learnt_and_nothing_else_is_overwritten(model):
    (item,) = inputs(model)[:1]
    item = Inputs(item.prompt, [*item.program, TOKEN["END"]])
    batch = collate([item], model.num_tokens())
    assert batch.targets.tolist() == item.program
    assert batch.loss_positions.tolist() == list(range(len(item.prompt) - 1, len(item.prompt) + len(item.program) - 1))


def test_the_first_loss_is_that_of_a_blind_guess(llm_folder, smoke):
    untrained = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, torch.float32)
    batch = collate([Inputs(i.prompt, i.program) for i in inputs(untrained)], {})
    with torch.no_grad():
        loss = float(untrained(batch)) / len(batch.targets)
    assert loss == pytest.approx(np.log(GRAMMAR.size), rel=0.1)


def test_bfloat16_is_close_and_generates(llm_folder, smoke):
    exact, half = (
        CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    batch = collate([Inputs(i.prompt, i.program) for i in inputs(exact)], {})
    with torch.no_grad(), autocast(half.device, half.dtype):
        assert float(half(batch)) == pytest.approx(float(exact(batch)), rel=0.01)
    assert {parameter.dtype for parameter in (*half.vocabulary().values(), *half.lora().values())} == {torch.float32}
    for (tokens,) in generate_tokens(half, [Inputs(i.prompt, []) for i in inputs(half)], Decoding(20)):
        assert Codec(8).decode(tokens).extrudes


def test_an_absent_modality_is_absent(model):
    items = inputs(model)
    batch = collate(items, model.num_tokens())
    counts = list(batch.lengths)
    assert batch.gather_BL.shape == (1, sum(counts))
    assert batch.gather_BL.all()  # nothing is padded
    tokens = model.num_tokens()
    extra = [0, tokens["point_cloud"], tokens["image"], tokens["point_cloud"] + tokens["image"]]
    assert counts == [len(i.prompt) + len(i.program) + e for i, e in zip(items, extra, strict=True)]
    assert len(batch.points) == 2
    assert len(batch.images) == 2


def test_only_what_the_stage_says_is_trained(model, smoke):
    frozen_before = {n: p.clone() for n, p in model.named_parameters() if "lora_" not in n}
    model.set_trainable_params(True, ("point_cloud",), "new")
    optimizer = make_optimizer(model, smoke.curriculum["stage2_text_pc"], smoke.training)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["projector/point_cloud"] == pytest.approx(5 * rates["lora"])
    assert "projector/image" not in rates
    model(collate(inputs(model), model.num_tokens())).backward()
    optimizer.step()
    vocabulary = {id(parameter) for parameter in model.vocabulary().values()}
    for name, parameter in model.named_parameters():
        if "lora_" in name or "projectors.point_cloud" in name or id(parameter) in vocabulary:
            assert parameter.grad is not None, name
        else:
            assert torch.equal(parameter, frozen_before[name]), name
    with pytest.raises(UserError, match="trains nothing"):
        model.set_trainable_params(False, (), "none")
        make_optimizer(model, smoke.curriculum["stage2_text_pc"], smoke.training)


def save(model, folder, llm_folder):
    folder.mkdir()
    save_checkpoint(folder, model, trained_tensors(model), ("text",), sha256_folder(llm_folder), {"stage": "x"})


def test_every_trained_tensor_survives_a_checkpoint(model, llm_folder, tmp_path):
    save(model, tmp_path / "c", llm_folder)
    again = load_checkpoint(tmp_path / "c", llm_folder, torch.float32)
    for file, tensors in trained_tensors(model).items():
        loaded = trained_tensors(again)[file]
        assert loaded.keys() == tensors.keys()
        for key, value in tensors.items():
            assert torch.equal(loaded[key], value), key
    batch = collate(inputs(model), model.num_tokens())
    assert torch.equal(again(batch), model(batch))
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(str(tmp_path / "c")).r == model.params.lora.r


def test_text_rows_freed_in_two_stages_stay_with_their_tokens(model, llm_folder, tmp_path):
    model.text_embedding.free([70, 66])
    model.text_embedding.free([68, 61])  # a later stage meets other words
    with torch.no_grad():
        model.text_embedding.rows.normal_()
    save(model, tmp_path / "c", llm_folder)
    again = load_checkpoint(tmp_path / "c", llm_folder, torch.float32)
    ids = torch.arange(60, 72)
    assert torch.equal(again.text_embedding(ids), model.text_embedding(ids))


def _drop(name):
    def change(folder):
        (folder / name).unlink()

    return change


def _cut_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "adapter_model.safetensors")


def _truncate(folder):
    data = (folder / "projectors.safetensors").read_bytes()
    (folder / "projectors.safetensors").write_bytes(data[: len(data) // 2])


def _other_llm(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"llm_sha256": "0" * 64}))


def _no_json(folder):
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop("config.json"), r"config\.json is missing"),
        (_drop("vocabulary.safetensors"), r"vocabulary\.safetensors is missing"),
        (_cut_tensor, "is missing"),
        (_truncate, r"projectors\.safetensors is damaged"),
        (_other_llm, "another language model"),
        (_no_json, "damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_fails_and_says_why(model, llm_folder, tmp_path, damage, message):
    save(model, tmp_path / "c", llm_folder)
    damage(tmp_path / "c")
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "c", llm_folder, torch.float32)


def test_other_parameters_are_refused(model, llm_folder, tmp_path, smoke):
    save(model, tmp_path / "c", llm_folder)
    other = smoke.model.model_copy(update={"lora": smoke.model.lora.model_copy(update={"r": 8})})
    with pytest.raises(UserError, match=r"other model\.lora"):
        load_checkpoint(tmp_path / "c", llm_folder, torch.float32, other)


def test_a_saved_state_goes_on_to_the_same_weights(llm_folder, smoke, tmp_path):
    def fresh():
        model = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, torch.float32)
        model.add_projector("point_cloud", (4, 16), DETAILS)
        model.add_projector("image", (2, 4, 16), DETAILS)
        model.set_trainable_params(True, ("point_cloud", "image"), "all", text_ids=range(60, 90))
        return model, make_optimizer(model, smoke.curriculum["stage3_all"], smoke.training)

    def step(model, optimizer, seed):
        model(collate(inputs(model, seed), model.num_tokens())).backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = fresh()
    for seed in range(2):
        step(model, optimizer, seed)
    position = Position(2, {"epoch": [1.5, 3]}, {}, 77)
    save_state(tmp_path, position, trained_tensors(model), collect_moments(optimizer), keep=1)
    step(model, optimizer, 2)
    again, other_optimizer = fresh()
    found = load_state(tmp_path / "state-00000002", again, Parallel(smoke.training))
    load_moments(tmp_path / "state-00000002", other_optimizer)
    assert found == position
    step(again, other_optimizer, 2)
    for file, tensors in trained_tensors(model).items():
        for key, value in tensors.items():
            assert torch.equal(trained_tensors(again)[file][key], value), key


@pytest.fixture
def text_model(llm_folder, smoke):
    return CadMllmModel(llm_folder, smoke.model.model_copy(update={"vocabulary": "text"}), GRAMMAR, 0, torch.float32)


def test_programs_as_text_come_back_and_add_no_token(text_model):
    notation = text_model.notation
    program = (
        Codec(8)
        .encode(synthesis.make_part(0, 4, tuple(synthesis.FAMILIES)).program.normalised(Frame((0.0, 0.0, 0.0), 0.2)))
        .tolist()
    )
    ids = notation.write(program)
    assert notation.read(ids) == program
    assert notation.read([*ids, *ids]) == program  # what follows the end fills the batch
    assert program[: len(notation.read(ids[:-8]))] == notation.read(ids[:-8])
    assert max(ids) < len(text_model.tokenizer)
    assert text_model.vocabulary() == {}
    assert text_model.causal_lm.get_input_embeddings() is text_model.text_embedding


def test_a_model_that_writes_text_is_trained_saved_and_generates(text_model, llm_folder, tmp_path):
    text_model.set_trainable_params(True, (), "new")
    prompt = tokenise_prompts(text_model.tokenizer, ["a plate"], 16)[0]
    program = text_model.notation.write([TOKEN["NEW"], TOKEN["XY"], TOKEN["END"]])
    batch = collate([Inputs(prompt, program)], {})
    text_model(batch).backward()
    assert all(p.grad is not None for name, p in text_model.lora().items() if "lora_B" in name)
    save_checkpoint(tmp_path, text_model, trained_tensors(text_model), ("text",), sha256_folder(llm_folder), {})
    again = load_checkpoint(tmp_path, llm_folder, torch.float32)
    assert torch.equal(again(batch), text_model(batch))
    tokens = generate_tokens(again, [Inputs(prompt, [])], Decoding(20))[0][0]
    with pytest.raises(RejectError, match=r"ungrammatical|incomplete"):
        Codec(8).decode(tokens)


def test_without_the_grammar_hardly_anything_parses(model):
    rng = np.random.default_rng(0)
    parsed = 0
    for _ in range(50):
        try:
            Codec(8).decode(rng.integers(0, GRAMMAR.size, 30))
            parsed += 1
        except RejectError:
            pass
    assert parsed == 0


def test_a_folder_without_a_model_is_told(tmp_path, smoke):
    with pytest.raises(UserError, match="holds no language model"):
        CadMllmModel(tmp_path, smoke.model, GRAMMAR, 0, torch.float32)


def built_llm(folder, smoke, **architecture):
    """A random language model with other sides than the smoke preset's."""
    llm = smoke.models.llm.model_copy(update={"architecture": {**smoke.models.llm.architecture, **architecture}})
    build_models(smoke.models.model_copy(update={"llm": llm}), 0, folder / "s", folder / "m", lambda *_: None)
    return folder / "m" / "llm"


@pytest.mark.parametrize("sides", [{}, {"hidden_size": 128, "intermediate_size": 192}], ids=["small", "blocks"])
@pytest.mark.parametrize("avx512_bf16", [False, True])
def test_frozen_weights_in_four_bits_learn_too(tmp_path, smoke, monkeypatch, avx512_bf16, sides):
    """On either kind of processor: with AVX512-BF16 bitsandbytes would pack the weights of a validation for good."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512_bf16)
    folder = built_llm(tmp_path, smoke, **sides)
    exact = CadMllmModel(folder, smoke.model, GRAMMAR, 0, torch.float32)
    small = CadMllmModel(folder, smoke.model, GRAMMAR, 0, torch.bfloat16, "nf4")
    assert any(type(module).__name__ == "Linear4bit" for module in small.llm.modules())
    small.set_trainable_params(True, (), "new")
    batch = collate([Inputs(i.prompt, i.program) for i in inputs(exact)], {})

    def learn():
        small.train()
        small.zero_grad()
        with autocast(small.device, small.dtype):
            loss = small(batch)
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in small.lora().items()}

    loss, gradients = learn()
    assert loss == pytest.approx(exact(batch).item(), rel=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    with torch.no_grad(), autocast(small.device, small.dtype):
        validation = small.eval()(batch).item()
    assert validation == loss
    again, then = learn()
    assert again == loss
    assert all(torch.equal(gradient, then[name]) for name, gradient in gradients.items())


def test_four_bit_weights_that_cannot_be_kept_are_told_before_they_are_loaded(tmp_path, smoke):
    pytest.importorskip("bitsandbytes")
    folder = built_llm(tmp_path, smoke, hidden_size=36, intermediate_size=65)
    with pytest.raises(UserError, match=r"training.quantization is nf4: .*mlp.gate_proj of .* has sides 65 x 36"):
        CadMllmModel(folder, smoke.model, GRAMMAR, 0, torch.float32, "nf4")


def test_an_adapter_is_within_the_weights_only_while_programs_are_written(llm_folder, smoke):
    model = CadMllmModel(llm_folder, smoke.model, GRAMMAR, 0, torch.float32)
    batch = collate([Inputs(i.prompt, i.program) for i in inputs(model)], {})
    with torch.no_grad():
        without = model(batch)
        for matrix in model.lora().values():
            torch.nn.init.normal_(matrix, std=0.1)
        beside = model(batch)
    assert not torch.allclose(beside, without)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode(), model.merged():
        assert not all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        torch.testing.assert_close(model(batch), beside, rtol=1e-5, atol=1e-4)
    with pytest.raises(KeyboardInterrupt), model.merged():
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(batch), beside)
