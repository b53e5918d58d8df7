"""On a GPU the model gives what it gives on the CPU; where there is none, on a pretended one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

import pipeline.runtime.device
from pipeline.cad.language.codec import Codec
from pipeline.decoding.generate import Decoding, generate_tokens
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.generation.likelihood import score
from pipeline.generation.prompt import Encoders
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.inputs import Inputs, collate
from pipeline.planning import measure
from pipeline.runtime.device import DTYPES, autocast, choose_device, matrix_flops, shared_device
from pipeline.runtime.errors import UserError
from pipeline.settings.places import SHIPPED
from pipeline.settings.resolved import ENCODERS, read_models
from pipeline.training.optimizer import clip_gradients, make_optimizer
from pipeline.training.parallel import Parallel
from tests.conftest import longer
from tests.unit.conftest import DETAILS, GRAMMAR, inputs
from tests.unit.test_model import save

pytestmark = pytest.mark.slow

LLM = SHIPPED / "language_model"  # its tokenizer knows the CAD tokens


def test_a_device_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device cuda is asked for, but this machine has no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="this machine has 2 CUDA devices"):
        choose_device("cuda:2")
    for name in ("mps", "gpu", "cuda:", "cpu:0"):
        with pytest.raises(UserError, match="auto, cpu, cuda"):
            choose_device(name)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_processes_of_one_machine_need_a_gpu_each(two_gpus):
    assert shared_device("cpu", 3) == torch.device("cpu")
    assert shared_device("auto", 2) == shared_device("cuda", 2) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="3 processes on this machine want a GPU each, but torch can use 2"):
        shared_device("auto", 3)


def test_the_first_process_of_a_machine_tells_what_is_wrong_for_all(two_gpus, smoke, monkeypatch):
    """Also where there are more on other machines, which are not counted here; nobody waits for the others first."""
    training = smoke.training.model_copy(update={"device": "cuda"})
    for rank in range(3):
        for key, value in {"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 3, "RANK": 3 + rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(key, str(value))
        with pytest.raises(SystemExit if rank else UserError, match="1" if rank else "3 processes"):
            Parallel(training)


def test_how_long_others_are_waited_for_is_a_number(smoke, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CADMLLM_PEER_TIMEOUT_S", "ten")
    with pytest.raises(UserError, match="CADMLLM_PEER_TIMEOUT_S='ten' is not a positive number"):
        Parallel(smoke.training)


@pytest.fixture
def loaded_on_gpu(gpu, monkeypatch):
    """The language model comes up on the GPU, as 4-bit weights do, before anything is made for it."""
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: load(*a, **k).to(gpu))
    return gpu


@pytest.mark.parametrize("vocabulary", ["cad", "text", "pretrained"])
def test_a_model_is_made_where_its_language_model_is(llm_folder, smoke, loaded_on_gpu, vocabulary):
    folder = LLM if vocabulary == "pretrained" else llm_folder
    params = smoke.model.model_copy(update={"vocabulary": "text" if vocabulary == "text" else "cad"})
    made, expected = (
        CadMllmModel(folder, params, GRAMMAR, 0, torch.float32, device=device)
        for device in (loaded_on_gpu, torch.device("cpu"))
    )
    for model in (made, expected):
        model.add_projector("image", (2, 4, 16), DETAILS)
    assert {parameter.device for parameter in made.parameters()} == {loaded_on_gpu}
    assert {parameter.device for parameter in expected.parameters()} == {torch.device("cpu")}
    state = expected.state_dict()
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), state[name], rtol=1e-5, atol=0, msg=name)


def step(model, smoke, seed=0):
    """The loss, the gradient of every parameter, and what a step makes of them."""
    model.train()
    optimizer = make_optimizer(model, smoke.curriculum["stage3_all"], smoke.training)
    scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
    batch = collate(inputs(model, seed), model.num_tokens()).to(model.device)
    with autocast(model.device, model.dtype):
        loss = model(batch)
    scaler.scale(loss / len(batch.targets)).backward()
    scaler.unscale_(optimizer)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = {name: p.grad.cpu() for name, p in trained.items()}
    clip_gradients(trained.values(), 1.0)
    scaler.step(optimizer)
    return loss.item(), grads, {name: p.detach().cpu() for name, p in trained.items()}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("mlp", dtype) for dtype in DTYPES),
        ("resampler", "float32"),
        longer("resampler", "bfloat16"),
        longer("resampler", "float16"),
    ],
)
def test_a_step_gives_the_numbers_of_the_cpu(llm_folder, smoke, gpu, dtype, kind):
    projectors = {name: getattr(smoke.model.projectors, name).model_copy(update={"kind": kind})
                  for name in ("point_cloud", "image")}  # fmt: skip
    params = smoke.model.model_copy(update={"projectors": smoke.model.projectors.model_copy(update=projectors)})

    def made(weights, device):
        model = CadMllmModel(llm_folder, params, GRAMMAR, 0, weights, device=device)
        model.add_projector("point_cloud", (4, 16), DETAILS)
        model.add_projector("image", (2, 4, 16), DETAILS)
        model.set_trainable_params(True, ("point_cloud", "image"), "all", text_ids=range(60, 120))
        return step(model, smoke)

    loss, grads, weights = made(DTYPES[dtype], gpu)
    exact, expected, stepped = made(torch.float32, torch.device("cpu"))
    close = {"rtol": 1e-3, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.1, "atol": 0.1}
    assert loss == pytest.approx(exact, rel=1e-5 if dtype == "float32" else 0.01)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        scale = expected[name].abs().max() + 1e-6
        torch.testing.assert_close(grad / scale, expected[name] / scale, **close, msg=name)
    if dtype == "float32":
        for name, weight in weights.items():
            torch.testing.assert_close(weight, stepped[name], rtol=1e-3, atol=2e-4, msg=name)


DECODINGS = {
    "greedy": Decoding(30),
    "beams": Decoding(20, 2, num_beams=2),
    "sampling": Decoding(20, 2, temperature=1.0),
}
EACH_ONCE = dict(zip(DECODINGS, ("qwen3 tied", "llama tied", "qwen2 untied"), strict=True))


@pytest.mark.parametrize(
    ("llm_folder", "decoding"),
    [
        (kind, name) if EACH_ONCE[name] == kind else longer(kind, name)
        for name in DECODINGS
        for kind in EACH_ONCE.values()
    ],
    indirect=["llm_folder"],
)
def test_programs_are_those_of_the_cpu(model, gpu, decoding):
    decoding = DECODINGS[decoding]
    prompts = [replace(item, program=[]) for item in inputs(model)]
    expected = generate_tokens(model, prompts, decoding)
    likelihoods = [score(model, prompt, programs) for prompt, programs in zip(prompts, expected)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(gpu)
    found = generate_tokens(model, prompts, decoding)
    if decoding.temperature:  # a GPU draws other numbers
        assert all(Codec(8).decode(tokens).extrudes for programs in found for tokens in programs)
    else:  # of two that are as likely up to rounding, either may be found
        likeliest = [score(model, prompt, programs) for prompt, programs in zip(prompts, found)]
        assert [max(values) for values in likeliest] == pytest.approx([max(values) for values in likelihoods], rel=1e-4)
        assert decoding.num_beams > 1 or found == expected
    for prompt, programs, values in zip(prompts, expected, likelihoods, strict=True):
        assert score(model, prompt, programs) == pytest.approx(values, rel=1e-4)
    assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in model.state_dict().items())


def test_an_adapter_within_the_weights_gives_the_same_loss(model, gpu):
    model.to(gpu).eval()
    batch = collate(inputs(model), model.num_tokens()).to(gpu)
    with torch.inference_mode():
        beside = model(batch).item()
        with model.merged():
            assert all(module.merged for module in model.modules() if hasattr(module, "lora_A"))
            assert model(batch).item() == pytest.approx(beside, rel=1e-5)


def test_a_checkpoint_is_loaded_onto_the_device(model, llm_folder, tmp_path, gpu):
    model.text_embedding.free([70, 66])
    with torch.no_grad():
        model.text_embedding.rows.normal_()
    batch = collate(inputs(model), model.num_tokens())
    expected = model(batch).item()
    save(model, tmp_path / "c", llm_folder)
    again = load_checkpoint(tmp_path / "c", llm_folder, device=gpu)
    assert {parameter.device for parameter in again.parameters()} == {gpu}
    assert again(batch.to(gpu)).item() == pytest.approx(expected, rel=1e-5)
    save(again, tmp_path / "d", llm_folder)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "d").iterdir())
    for name in names:
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "d" / name).read_bytes(), name


# -- encoders and rates ---------------------------------------------------------------------------------------


def encoders_of(model, models):
    """The encoders of a model that was trained on their features, two clouds or four images at a time on a GPU."""
    known = read_models(models)
    geometry = {"num_points": 64, "image_size": 56}
    for modality, shape, settings in (
        ("point_cloud", (4, 16), PointFeatures(tokens="all", batch_size=2, dtype="float16")),
        ("image", (2, 4, 16), ImageFeatures(pool=2, batch_size=4, dtype="float16")),
    ):
        encoder = {"source": "init", "sha256": known[ENCODERS[modality]]["sha256"]}
        model.add_projector(
            modality, shape, {"encoder": encoder, "settings": settings.model_dump(), "geometry": geometry}
        )
    return Encoders(model, models)


def counted(module):
    """How many rows each forward pass of a module has had so far."""
    passes = []
    module.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    return passes


def test_inputs_are_encoded_in_batches_on_a_gpu_and_one_by_one_on_a_cpu(model, llm_folder, gpu):
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(number, 6)).astype(np.float32) for number in (64, 64, 10, 200, 64)]
    parts = [[Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)) for _ in range(number)]
             for number, size in ((2, 56), (1, 80), (2, 56))]  # fmt: skip
    expected = []
    for device, cloud_passes, image_passes in ((torch.device("cpu"), [1] * 5, [2, 1, 2]), (gpu, [2, 2, 1], [3, 2])):
        encoders = encoders_of(model.to(device), llm_folder.parent)
        passes = counted(encoders._points[0].encoder), counted(encoders._images[0])
        found = [*encoders.points(clouds), *encoders.images(parts)]
        assert passes == (cloud_passes, image_passes)
        assert [tokens.shape for tokens in found] == [(4, 16)] * 5 + [(2, 4, 16), (1, 4, 16), (2, 4, 16)]
        expected = expected or found
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=5e-3)
    with pytest.raises(UserError, match="3 images; the checkpoint knows 2 views"):
        encoders.images([parts[0], [*parts[0], parts[1][0]]])


def test_a_plan_measures_passes_of_the_size_that_work_has(smoke, gpu, monkeypatch):
    def once(work, *_, **__):
        work()
        return 1.0

    monkeypatch.setattr(measure, "fastest_s", once)
    monkeypatch.setattr(pipeline.runtime.device, "fastest_s", once)
    cpu = torch.device("cpu")
    images, clouds = smoke.features.image.batch_size, smoke.features.point_cloud.batch_size
    assert measure._points_seconds(smoke, cpu) == 1
    assert measure._points_seconds(smoke, gpu) == 1 / clouds
    assert measure._image_seconds(smoke, cpu) == 1 / smoke.geometry.num_views
    assert measure._image_seconds(smoke, gpu) == 1 / images
    assert matrix_flops(cpu, size=8) == 2 * 8**3
    if gpu.type == "cuda":
        assert matrix_flops(gpu, torch.bfloat16, size=8) > 10 * 2 * 8**3  # products for one wait


# -- 4-bit weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_four_bit_weights_learn_write_and_stay_as_they_are(smoke, name, dtype):
    pytest.importorskip("bitsandbytes")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = choose_device(name)
    exact = CadMllmModel(LLM, smoke.model, GRAMMAR, 0, torch.float32)
    model = CadMllmModel(LLM, smoke.model, GRAMMAR, 0, dtype, "nf4", device)
    assert {parameter.device.type for parameter in model.parameters()} == {name}
    for each in (exact, model):
        each.set_trainable_params(True, (), "new")
    items = [Inputs(item.prompt, item.program) for item in inputs(exact)]
    batch = collate(items, {}).to(device)

    def loss():
        with torch.no_grad(), autocast(device, dtype):
            return model(batch).item()

    with torch.no_grad():
        assert loss() == pytest.approx(exact(collate(items, {})).item(), rel=0.02)
    model.train()  # on some CPUs bitsandbytes packs weights otherwise while a model is not trained
    with autocast(device, dtype):
        model(batch).backward()
    assert all(p.grad.isfinite().all() for p in model.lora().values())
    with torch.no_grad():
        for matrix in model.lora().values():
            matrix.normal_(std=0.05)
    before = loss()
    with torch.inference_mode(), model.merged():
        pass
    assert loss() == before
    for (tokens,) in generate_tokens(model, [Inputs(item.prompt, []) for item in items], Decoding(20)):
        assert Codec(8).decode(tokens).extrudes
