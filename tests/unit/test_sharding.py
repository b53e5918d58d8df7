"""FSDP2 on a 7B model without its weights: what each of eight GPUs would hold, counted on the meta device."""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, Qwen2Config

from pipeline.model.cad_mllm import CadMllmModel
from pipeline.planning.sizes import LLMS, image_shape, points_shape
from pipeline.runtime.errors import UserError
from pipeline.settings.places import SHIPPED
from pipeline.training.parallel import Parallel
from pipeline.training.state import _read, _write_shards
from tests.unit.conftest import DETAILS, GRAMMAR, preset

pytestmark = pytest.mark.slow

META, SIZE, CAPTION_TOKENS = torch.device("meta"), 8, 10_000
QWEN = LLMS["Qwen/Qwen2.5-7B"]


@pytest.fixture
def model(monkeypatch):
    """The whole model of the preset ``paper`` in its last stage, of shapes alone."""
    paper = preset("paper")
    config = Qwen2Config(
        hidden_size=QWEN.width,
        intermediate_size=QWEN.inner,
        num_hidden_layers=QWEN.layers,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=QWEN.vocabulary,
        tie_word_embeddings=False,
    )

    def shapes(*_, dtype, **__):
        with META:
            return AutoModelForCausalLM.from_config(config, dtype=dtype)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", shapes)
    monkeypatch.setattr(torch.Tensor, "std", lambda *_: torch.tensor(0.02))  # there are no values
    made = CadMllmModel(SHIPPED / "language_model", paper.model, GRAMMAR, 0, torch.bfloat16, device=META)
    made.add_projector("point_cloud", points_shape(paper), DETAILS)
    made.add_projector("image", image_shape(paper), DETAILS)
    made.text_embedding.rows = nn.Parameter(torch.empty(CAPTION_TOKENS, QWEN.width, device=META))
    made.set_trainable_params(True, ("point_cloud", "image"), "new")
    made.text_embedding.rows.requires_grad_(True)
    return made


@contextmanager
def process(rank):
    """One of so many that exchange nothing."""
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=SIZE)
    parallel = Parallel.__new__(Parallel)  # its processes are not there to be found
    parallel.size, parallel.rank, parallel.sharded, parallel.device = SIZE, rank, True, torch.device("cpu")
    try:
        yield parallel
    finally:
        distributed.destroy_process_group()


def weigh(tensors):
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)


def gathered(model):
    """Bytes of each group of parameters that is gathered at once: what is in no group within it."""
    groups, seen = {}, set()
    for name, module in reversed(list(model.named_modules())):  # the innermost first
        if isinstance(module, FSDPModule):
            own = [p for p in module.parameters() if id(p) not in seen]
            seen |= {id(p) for p in own}
            groups[name or "rest"] = weigh(own)
    return groups


@pytest.mark.parametrize("rank", [0, SIZE - 1])
def test_no_gpu_ever_holds_all_of_a_7b_model(model, rank):
    whole, count = weigh(model.parameters()), sum(p.numel() for p in model.parameters())
    assert count > 7e9
    with process(rank) as parallel:
        wrapped = parallel.wrap(model)
        parameters = list(wrapped.parameters())
        assert all(isinstance(p, DTensor) for p in parameters)
        local = weigh(p.to_local() for p in parameters)
        groups = gathered(wrapped)
    assert len(groups) == QWEN.layers + 1
    assert local < 1.01 * whole / SIZE
    layers = sorted(size for name, size in groups.items() if name != "rest")
    # FSDP2 keeps what is in no layer from the start of a pass, and gathers a layer while the one before computes.
    assert local + groups["rest"] + sum(layers[-2:]) < whole / 3


def test_what_is_saved_is_small_beside_the_model_and_shared_out(model):
    """Float32 weights and two moments of what is trained, of which each process writes what it holds."""
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    state = 3 * weigh(trained)
    assert state < weigh(model.parameters()) / 8
    with process(0) as parallel:
        parallel.wrap(model)
        rows = model.text_embedding.rows
        written = [*model.adapter().values(), *model.projectors.parameters(), *model.vocabulary().values(), rows]
        assert weigh(written) == weigh(trained)
        assert weigh(tensor.to_local() for tensor in written) < 1.01 * weigh(trained) / SIZE


@pytest.fixture
def alone(monkeypatch):
    """The only process that trains, without the pretended GPU that other tests have brought."""
    monkeypatch.delattr(torch, torch._C._get_privateuse1_backend_name(), raising=False)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(rank=0, control=distributed.group.WORLD)
    distributed.destroy_process_group()


def test_what_a_disk_or_the_memory_does_to_a_shard_is_told_as_of_any_file(alone, tmp_path, monkeypatch):
    def read():
        return _read(tmp_path, False, lambda _, size, dtype: torch.empty(size, dtype=dtype))

    _write_shards(tmp_path, {"whole": torch.arange(3)}, alone)
    assert read()["whole"].tolist() == [0, 1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageReader, "read_data", mock.Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            read()
    (written,) = tmp_path.iterdir()
    written.write_bytes(written.read_bytes()[:-4])
    with pytest.raises(UserError, match="is damaged"):
        read()
    written.unlink()
    written.mkdir()
    with pytest.raises(IsADirectoryError, match=written.name):
        _write_shards(tmp_path, {"whole": torch.arange(3)}, alone)
