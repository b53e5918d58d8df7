"""Objective geometry: programs drawn by seed, what they are worth, and what an update makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.language.tokens import TOKEN
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT
from pipeline.cad.parts.shapes import circle, extrude, rectangle, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import volumetric_iou, watertight
from pipeline.curriculum.settings import Rollouts
from pipeline.decoding.constrained import GrammarProcessor, choices
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.decoding.sampling import SeededSampling
from pipeline.geometry.draw import DEFLECTION
from pipeline.model.inputs import collate
from pipeline.reinforcement.geometry import Rollout, advantages, at_once, figures_of, policy_batches
from pipeline.reinforcement.rewards import Reward, estimated_iou, reward
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator
from pipeline.training.optimizer import make_optimizer
from pipeline.training.parallel import Parallel
from tests.unit.conftest import GRAMMAR, inputs

CODEC = Codec(8)
SAMPLED = Decoding(24, temperature=0.8)


def program(*extrudes):
    return CadProgram(tuple(extrudes))


def block(width, height=1.0, **given):
    return program(extrude("top", rectangle(width, 1.0), height, **given))


def prompts_of(model):
    return [replace(item, program=[]) for item in inputs(model)]


def test_the_common_share_of_boxes_is_what_it_is():
    assert estimated_iou(block(1.0), block(1.0)) == 1
    assert estimated_iou(block(1.0), block(2.0)) == pytest.approx(1 / 2, abs=0.01)
    assert estimated_iou(block(1.0, 0.001), block(1.5, 0.001)) == pytest.approx(2 / 3, abs=0.01)  # thin ones, too
    assert estimated_iou(block(1.0), block(1.0, at=(5.0, 0.0, 0.0))) == 0
    drilled = program(*block(2.0).extrudes, extrude("top", circle(0.6), symmetric(9), CUT))
    assert estimated_iou(drilled, block(2.0)) == pytest.approx(1 - np.pi * 0.3**2 / 2, abs=0.01)


@pytest.mark.slow
def test_it_is_near_what_the_kernel_says():
    made = [synthesis.make_part(3, number, ("flange", "l_bracket")).program for number in range(6)]
    bodies = [watertight(kernel.tessellate(kernel.build(each), DEFLECTION)) for each in made]
    for at in range(1, len(made)):
        exact = volumetric_iou(bodies[at - 1], bodies[at])
        assert estimated_iou(made[at - 1], made[at]) == pytest.approx(exact, abs=0.02)


def test_what_cannot_be_judged_is_worth_nothing():
    true = CODEC.encode(block(2.0)).tolist()
    whole = reward(true, true, 8, 0.001)
    assert (whole.iou, whole.valid) == (1, True)
    assert whole.value == pytest.approx(1 - 0.001 * len(true))
    assert reward(true, true, 8, 1.0).value == 0, "never less than nothing"
    gone = CODEC.encode(program(*block(2.0).extrudes, extrude("top", rectangle(3, 3), symmetric(2), CUT))).tolist()
    for nothing in (gone, true[: len(true) // 2], [TOKEN["END"]]):
        assert reward(nothing, true, 8, 0.001) == Reward(0.0, 0.0, False)
    with pytest.raises(RejectError):
        estimated_iou(block(2.0), CODEC.decode(gone))


def worth(value, *tokens):
    return Rollout(tokens, Reward(value, value, value > 0))


def test_a_program_is_followed_by_how_much_better_it_is_than_its_group():
    group = [worth(0.8, 1, 2), worth(0.2, 3), worth(0.2, 3), worth(0.0, 4)]
    assert advantages(group) == pytest.approx({(1, 2): 0.5, (3,): -0.2, (4,): -0.3})
    assert advantages([worth(0.3, 1), worth(0.3, 2)]) == {}
    figures = figures_of([group, [worth(0.4, 5)] * 4])
    assert figures == pytest.approx({"reward": 0.35, "iou": 0.35, "valid": 7 / 8, "spread": 0.15, "tokens": 9 / 8})


def test_what_is_written_at_once_fits():
    lengths = [3, 9, 4, 8, 100, 3]
    batches = at_once(lengths, 20)
    assert batches == [[4], [1, 3], [2, 0, 5]]


def drawing(seeds):
    return [generator(seed) for seed in seeds]


@pytest.mark.slow
def test_a_seed_alone_decides_what_is_drawn_for_a_prompt(model):
    prompts, seeds = prompts_of(model), [5, 6, 7, 8]
    together = generate_tokens(model, prompts, SAMPLED, drawing(seeds))
    pairs = zip(prompts, seeds, strict=True)
    alone = [generate_tokens(model, [prompt], SAMPLED, drawing([seed]))[0] for prompt, seed in pairs]
    assert together == alone
    again = generate_tokens(model, [prompts[0]] * 8, SAMPLED, drawing(range(8)))
    assert again[5] == together[0]
    assert len({tuple(tokens) for (tokens,) in again}) > 1


def test_seeds_draw_from_the_softmax_at_the_temperature():
    scores = torch.tensor([0.3, -torch.inf, 1.2, -0.5]).repeat(20_000, 1)
    drawn = SeededSampling(drawing(range(20_000)), 0.5)(torch.zeros(0), scores).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, (scores[0] / 0.5).softmax(0), atol=0.01, rtol=0)


def test_choices_are_those_that_the_model_had(model, monkeypatch):
    seen = []
    allowed = GrammarProcessor.allowed
    with monkeypatch.context() as patch:
        patch.setattr(GrammarProcessor, "allowed", lambda self, rows: seen.append(allowed(self, rows)) or seen[-1])
        ((tokens,),) = generate_tokens(model, prompts_of(model)[:1], SAMPLED, drawing([3]))
    assert np.array_equal(choices(GRAMMAR, tokens, SAMPLED.max_new_tokens), np.concatenate(seen))


def policy_losses(model, rollouts, parallel, prompt, programs):
    """Minus the log-probability of each program, as the policy that wrote it has it."""
    batches = [policy_batches(model, [(prompt, tokens, 1.0)], rollouts, 4096, parallel) for tokens in programs]
    return [model(batch) for ((batch, _),) in batches]


def test_the_loss_is_that_of_the_policy_that_wrote(model, smoke):
    """Log-probabilities among the tokens that were allowed, at the temperature, times advantages."""
    rollouts, parallel = Rollouts(temperature=0.8, max_new_tokens=24), Parallel(smoke.training)
    prompt = prompts_of(model)[3]
    programs = [tuple(tokens) for (tokens,) in generate_tokens(model, [prompt] * 2, SAMPLED, drawing([0, 1]))]
    expected = []
    for tokens in programs:
        batch = collate([replace(prompt, program=tokens)], model.num_tokens())
        logits = model.causal_lm.get_output_embeddings()(model.hidden(batch)).float() / 0.8
        allowed = torch.from_numpy(choices(GRAMMAR, tokens, 24))
        expected.append(F.cross_entropy(logits.masked_fill(~allowed, -torch.inf), batch.targets, reduction="sum"))
    found = policy_losses(model, rollouts, parallel, prompt, programs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    followed = [(prompt, tokens, advantage) for tokens, advantage in zip(programs, (0.5, -0.25), strict=True)]
    parts = policy_batches(model, followed, rollouts, 64, parallel)
    total = sum(weight * model(batch) for batch, weight in parts)
    together = 0.5 * expected[0] - 0.25 * expected[1]
    torch.testing.assert_close(total, together, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(loss, list(model.lora().values())) for loss in (total, together)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_an_update_makes_the_better_program_likelier(model, smoke):
    rollouts, parallel = Rollouts(max_new_tokens=24), Parallel(smoke.training)
    prompt = prompts_of(model)[1]
    written = generate_tokens(model, [prompt] * 2, Decoding(24, temperature=1.0), drawing([0, 1]))
    better, worse = (tuple(tokens) for (tokens,) in written)
    group = [Rollout(better, Reward(0.9, 0.9, True)), Rollout(worse, Reward(0.1, 0.1, True))]
    followed = [(prompt, *each) for each in advantages(group).items()]
    before = policy_losses(model, rollouts, parallel, prompt, (better, worse))
    optimizer = make_optimizer(model, smoke.curriculum["stage3_all"], smoke.training)
    for batch, _ in policy_batches(model, followed, rollouts, 4096, parallel):
        model(batch).backward()
    optimizer.step()
    after = policy_losses(model, rollouts, parallel, prompt, (better, worse))
    assert after[0] < before[0]
    assert after[1] > before[1]
