"""A language model's own projectors: taken along for the encoder that they were trained with, and begun with."""

import pytest
import torch
from safetensors.torch import load_file

from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.model.projector import ModalityProjector, start_from_pretrained
from pipeline.model.settings import Projector
from pipeline.runtime.errors import UserError
from pipeline.weights.projectors import save_projector, take_projectors, weights_digest
from tests.unit.conftest import cut_off

SMALL = Projector(kind="mlp", hidden=6, num_queries=2)


def encoder(folder, seed):
    torch.manual_seed(seed)
    MichelangeloEncoder(MichelangeloConfig(width=8, num_heads=2, num_layers=1, num_latents=3)).save_pretrained(folder)
    return folder


def projector(seed, params=SMALL):
    torch.manual_seed(seed)
    return ModalityProjector(params, (4, 8), 16, 0.02)


@pytest.fixture
def pretrained(tmp_path):
    """A language model's folder with a projector, and the encoder that it is for."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    own = encoder(tmp_path / "own", 0)
    save_projector(projector(0).state_dict(), folder, "point_cloud", own)
    return folder, own


def test_a_projector_is_taken_for_its_own_encoder_alone(pretrained, tmp_path):
    folder, own = pretrained
    for name, seed, taken in (("other", 1, []), ("same", 0, ["point_cloud"])):
        resolved = tmp_path / f"llm-{name}"
        resolved.mkdir()
        encoders = {"image": tmp_path / "none", "point_cloud": encoder(tmp_path / name, seed)}
        assert take_projectors(folder, resolved, encoders) == taken
        assert start_from_pretrained(projector(1), resolved, "point_cloud") == bool(taken)
    assert take_projectors(tmp_path, tmp_path, {"point_cloud": own}) == []


def test_weights_are_known_again_in_half_precision(pretrained, tmp_path):
    _, own = pretrained
    halved = MichelangeloEncoder.from_pretrained(own).half()
    halved.save_pretrained(tmp_path / "halved")
    assert load_file(tmp_path / "halved/model.safetensors")["query"].dtype == torch.float16
    assert weights_digest(tmp_path / "halved") == weights_digest(own)


def test_training_begins_where_pretraining_ended(pretrained):
    folder, _ = pretrained
    fresh, expected = projector(1), projector(0).state_dict()
    assert start_from_pretrained(fresh, folder, "point_cloud")
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("changed", [{"hidden": 7}, {"kind": "resampler"}])
def test_one_of_another_kind_or_size_begins_at_random(pretrained, changed):
    folder, _ = pretrained
    fresh = projector(1, SMALL.model_copy(update=changed))
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    assert not start_from_pretrained(fresh, folder, "point_cloud")
    assert not start_from_pretrained(fresh, folder, "image")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_one_that_is_cut_off_is_told(pretrained, tmp_path):
    folder, own = pretrained
    cut_off(folder / "projectors/point_cloud.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        start_from_pretrained(projector(1), folder, "point_cloud")
    with pytest.raises(UserError, match="is damaged"):
        take_projectors(folder, tmp_path, {"point_cloud": own})
