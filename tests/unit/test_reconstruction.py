"""Programs from scans of their own solids: what is shown, what is learnt from, and that workers change nothing."""

import numpy as np
import pytest
import torch

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram, Profile
from pipeline.cad.parts.shapes import circle, extrude, rectangle
from pipeline.cad.solids.prisms import inside
from pipeline.encoders.alignment import AlignmentHead
from pipeline.encoders.michelangelo import MichelangeloConfig, MichelangeloEncoder
from pipeline.model.settings import Projector
from pipeline.pretraining.images import HeadBatches, HeadTraining
from pipeline.pretraining.language import IGNORED
from pipeline.pretraining.loop import Pretrainer
from pipeline.pretraining.reconstruction import ReconstructionBatches, make_reconstruction, mean_losses
from pipeline.pretraining.scans import CLEAN, scan, scanned
from pipeline.pretraining.settings import LanguagePretraining, Recipe, ReconstructionPretraining

CODEC = Codec(8)
CAPTIONS = ["a plate with a hole", "a plate", "a block", "a disc", "a long block"]
SHARES = {"point_cloud": 0.5, "text+point_cloud": 0.3, "text": 0.2}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def tokens(profiles, height):
    return CODEC.encode(CadProgram((extrude("top", profiles, height, at=(0.0, 0.0, -height / 2)),)))


PROGRAMS = [
    tokens([Profile(rectangle(2, 1), (circle(0.5),))], 0.25),
    tokens(rectangle(2, 1.5), 0.25),
    tokens(rectangle(2, 2), 2),
    tokens(circle(2), 0.5),
    tokens(rectangle(2, 0.5), 0.5),
]


@pytest.fixture
def recipe():
    return ReconstructionPretraining(
        steps=6, batch_size=3, lr=1e-3, save_every=4, log_every=1, num_points=48, modality_sample_probs=SHARES
    )


@pytest.fixture
def made(recipe):
    encoder = MichelangeloConfig(width=8, num_heads=2, num_layers=1, num_latents=3)
    torch.manual_seed(0)
    projector = Projector(kind="mlp", hidden=16, num_queries=4)
    tokenizer, module = make_reconstruction(
        MichelangeloEncoder(encoder), projector, LLAMA, CAPTIONS, CODEC.grammar, 300, 0
    )
    return module, ReconstructionBatches(CAPTIONS, PROGRAMS, tokenizer, 16, CODEC, recipe, 0)


def test_a_batch_shows_what_its_combination_says(made):
    _, batches = made
    rows = np.array([0, 3, 2])
    alone, both, text = (batches.batch(rows, combination, 7) for combination in SHARES)
    assert text.points is None
    assert torch.equal(alone.points, both.points)  # what is drawn hangs on the step and the model alone
    assert not torch.equal(alone.points, batches.batch(rows, "point_cloud", 8).points)
    assert torch.equal(both.ids, text.ids)
    for number, row in enumerate(rows.tolist()):
        program = batches.cad_ids[PROGRAMS[row]]
        for batch, prompt in ((alone, batches.instruction), (both, batches.prompts[row])):
            counted = batch.labels[number] != IGNORED
            np.testing.assert_array_equal(batch.labels[number][counted], program)
            np.testing.assert_array_equal(batch.ids[number, : len(prompt)], prompt)
            assert counted.sum() == len(program)
            assert counted.int().argmax() == len(prompt)


def test_pictures_are_of_the_models_and_views_that_are_named(made):
    _, batches = made
    shares = {"image": 0.5, "text+point_cloud+image": 0.5}
    pictured = LanguagePretraining(**{**batches.recipe.model_dump(), "modality_sample_probs": shares}, num_views=2)
    batches.recipe, batches.pictures = pictured, np.arange(5 * 4 * 3 * 2, dtype=np.float16).reshape(5, 4, 3, 2)
    rows = np.array([4, 0, 2])
    alone, all_three = (batches.batch(rows, combination, 7) for combination in shares)
    assert alone.points is None
    assert all_three.points.shape == (3, 48, 6)
    for batch in (alone, all_three):
        assert batch.images.shape[2:] == (3, 2)
        for number, row in enumerate(rows.tolist()):
            views = batch.views[number].tolist()
            assert len(views) in {1, 2}
            np.testing.assert_array_equal(batch.images[number], batches.pictures[row, views])
    drawn = {tuple(row) for step in range(40) for row in batches.batch(rows, "image", step).views.tolist()}
    assert len(drawn) == 4 + 6  # each of the four views, each pair of them


def test_steps_show_combinations_as_often_as_is_asked(made):
    _, batches = made
    found = [batches.combination(step) for step in range(2000)]
    for name, share in SHARES.items():
        assert found.count(name) / len(found) == pytest.approx(share, abs=0.04)


def test_clouds_are_of_the_programs_own_solid(made):
    _, batches = made
    clean = 0
    for number in range(40):
        row = number % len(PROGRAMS)
        cloud = batches.cloud(PROGRAMS[row], np.random.default_rng(number))
        assert cloud.shape == (48, 6)
        assert cloud.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(cloud[:, 3:], axis=1), 1, atol=1e-4)
        assert np.abs(cloud[:, :3]).max() < 1.2
        program, shift = CODEC.decode(PROGRAMS[row]), 1e-3 * cloud[:, 3:]
        within, without = (inside(program, cloud[:, :3] + sign * shift) for sign in (-1, 1))
        clean += bool(within.all() and not without.any())
    assert clean / 40 > CLEAN - 0.1


def test_a_scans_faults_are_drawn_and_leave_points():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(400, 6))
    cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    few = moved = 0
    for seed in range(60):
        found = scanned(cloud, 200, np.random.default_rng(seed))
        assert found.shape == (200, 6)
        np.testing.assert_array_equal(found, scanned(cloud, 200, np.random.default_rng(seed)))
        few += len(np.unique(found[:, 0])) < 200
        moved += not np.isin(found[:, 0], cloud[:, 0].astype(np.float32)).all()
    assert 5 < few < 55
    assert 5 < moved < 40


def test_a_scan_has_the_faults_that_are_asked_for():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-1, 1, size=(4000, 6))
    cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    whole = scan(cloud, 3000, 0.0, 0.25, np.random.default_rng(1))
    assert len(np.unique(whole[:, 0])) == 3000  # all that three quarters are
    noisy = scan(cloud, 3000, 0.01, 0.25, np.random.default_rng(1))
    assert (noisy - whole)[:, :3].std() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(np.linalg.norm(noisy[:, 3:], axis=1), 1, atol=1e-5)


def test_workers_change_no_weight(made, recipe, tmp_path):
    module, batches = made
    start = {name: value.clone() for name, value in module.state_dict().items()}
    assert set(mean_losses(module, batches)) == set(SHARES)

    def trained(name, workers):
        module.load_state_dict(start)
        scratch, speed = tmp_path / name, tmp_path / f"{name}.jsonl"
        scratch.mkdir()
        Pretrainer(module, recipe, 0, batches, module.loss, scratch, speed, lambda *_: None, num_workers=workers).run()
        return {key: value.clone() for key, value in module.state_dict().items()}

    expected, found = trained("thread", 0), trained("workers", 2)
    assert any(not torch.equal(value, start[name]) for name, value in expected.items())
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_heads_learn_from_views_that_are_drawn_for_the_step():
    rng = np.random.default_rng(0)
    shapes, images = rng.random((6, 3, 5)).astype(np.float16), rng.random((6, 4, 2, 7)).astype(np.float16)
    batches = HeadBatches(shapes, images, 4, 0)
    counts = set()
    for step in range(20):
        batch, again = batches(step), HeadBatches(shapes, images, 4, 0)(step)
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.shapes, again.shapes)
        rows = [
            np.flatnonzero((shapes[:, 0] == shape.half().numpy()).all(axis=1)).item() for shape in batch.shapes[:, 0]
        ]
        assert len(set(rows)) == 4
        for row, found in zip(rows, batch.images.unflatten(1, (-1, 2)).half().numpy(), strict=True):
            views = [np.flatnonzero((images[row] == view).all(axis=(1, 2))).item() for view in found]
            assert len(set(views)) == len(views)
            counts.add(len(views))
    assert counts == {1, 2, 3, 4}
    assert len(HeadBatches(shapes, images, 99, 0)(0).shapes) == 6


def test_heads_learn_to_find_each_other(tmp_path):
    rng = np.random.default_rng(0)
    told = rng.normal(size=(32, 8)).astype(np.float32)
    shapes, images = (told @ rng.normal(size=(8, width)).astype(np.float32) for width in (12, 10))
    torch.manual_seed(0)
    module = HeadTraining(AlignmentHead(12, 8), AlignmentHead(10, 8))
    batches = HeadBatches(shapes[:, None], images[:, None, None], 16, 0)
    recipe = Recipe(steps=60, batch_size=16, lr=0.02)
    before = module.loss(batches(0))[0].item()
    Pretrainer(module, recipe, 0, batches, module.loss, tmp_path, tmp_path / "speed.jsonl", lambda *_: None).run()
    assert module.loss(batches(0))[0].item() < before / 2
