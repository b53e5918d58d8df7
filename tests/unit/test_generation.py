"""Programs out of a model: within the grammar, from a start, and the best of several."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Frame
from pipeline.cad.language.tokens import TOKEN, GrammarError
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import volumetric_iou, watertight
from pipeline.cad.solids.sampling import sample_surface
from pipeline.decoding.constrained import GrammarProcessor
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.execution.sandbox import Sandbox
from pipeline.generation.likelihood import score
from pipeline.generation.select import build_candidate, select
from pipeline.geometry.draw import DEFLECTION
from pipeline.model.inputs import collate
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.seeds import generator
from tests.unit.conftest import GRAMMAR, inputs

CODEC = Codec(8)


def prompts_of(model):
    return [replace(item, program=[]) for item in inputs(model)]


def normalised(number):
    """A synthetic part in its normalised frame, as the codec keeps it."""
    program = synthesis.make_part(7, number, tuple(synthesis.FAMILIES)).program
    frame = Frame.of_box(*kernel.bounding_box(kernel.build(program)))
    return CODEC.encode(program.normalised(frame)).tolist()


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(40),
        Decoding(40, 3, temperature=1.0),
        Decoding(40, 2, temperature=2.0, top_p=0.9),
        Decoding(24, 2, num_beams=3),
    ],
    ids=["greedy", "sampling", "hot nucleus", "beams"],
)
def test_an_untrained_model_writes_only_programs(model, decoding):
    for programs in generate_tokens(model, prompts_of(model), decoding):
        assert len(programs) == decoding.num_samples
        for tokens in programs:
            assert len(tokens) <= decoding.max_new_tokens
            assert CODEC.decode(tokens).extrudes


def test_without_the_grammar_nothing_parses(model):
    for programs in generate_tokens(model, prompts_of(model), Decoding(40, 3, temperature=1.0, constrained=False)):
        for tokens in programs:
            with pytest.raises(RejectError):
                CODEC.decode(tokens)


@pytest.mark.slow
def test_a_prompt_gives_the_same_program_in_a_batch_and_alone(model):
    prompts = prompts_of(model)
    together = generate_tokens(model, prompts, Decoding(30))
    assert together == [generate_tokens(model, [prompt], Decoding(30))[0] for prompt in prompts]


@pytest.mark.slow
def test_sampling_depends_on_its_seed_alone(model):
    first, same, other = (
        generate_tokens(model, prompts_of(model), Decoding(30, 4, temperature=1.5, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same != other


@pytest.mark.parametrize("decoding", [Decoding(60), Decoding(40, 2, num_beams=2), Decoding(40, 2, temperature=1.0)])
def test_a_start_is_kept_and_gone_on_from(model, decoding):
    whole = normalised(3)
    prompts = prompts_of(model)
    starts = [[], whole[:-1], [], whole[:-1]]
    for start, programs in zip(
        starts,
        generate_tokens(model, [replace(p, program=s) for p, s in zip(prompts, starts)], decoding),
        strict=True,
    ):
        for tokens in programs:
            assert tokens[: len(start)] == start
            assert len(tokens) <= len(start) + decoding.max_new_tokens
            given, found = CODEC.decode([*start, TOKEN["END"]] if start else tokens), CODEC.decode(tokens)
            assert found.extrudes[: len(given.extrudes)] == given.extrudes


def test_a_start_that_is_no_program_is_refused():
    with pytest.raises(GrammarError):
        GrammarProcessor(GRAMMAR, 20, [[TOKEN["END"]]])


@pytest.mark.parametrize(
    "settings", [{"num_samples": 2}, {"num_samples": 3, "num_beams": 2}, {"temperature": 1.0, "num_beams": 2}]
)
def test_decoding_that_contradicts_itself_is_refused(settings):
    with pytest.raises(UserError):
        Decoding(20, **settings)


def test_likelihoods_are_those_of_the_loss(model):
    for item in inputs(model):
        loss = model(collate([item], model.num_tokens())).item()
        (found,) = score(model, replace(item, program=[]), [item.program])
        assert found == pytest.approx(-loss, rel=1e-5)


def test_the_constraint_moves_no_probability_between_allowed_tokens():
    processor, scores = GrammarProcessor(GRAMMAR, 40), torch.randn(2, GRAMMAR.size)
    masked = processor(torch.zeros(2, 0, dtype=torch.long), scores)
    allowed = masked > -torch.inf
    assert torch.equal(masked[allowed], scores[allowed])
    assert allowed.sum(dim=1).tolist() == [1, 1]  # a program begins with a new body


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(build_candidate, 1, 60, 4096) as made:
        yield made


def cloud_of(tokens, seed=5):
    return sample_surface(kernel.tessellate(kernel.build(CODEC.decode(tokens)), DEFLECTION), 1024, generator(seed))


@pytest.mark.slow
def test_the_candidate_nearest_to_the_cloud_is_chosen(sandbox):
    programs = [normalised(number) for number in range(6)]
    broken = [1, 5]
    for true in (0, 3):
        (found,) = select([[broken, *programs]], [[0.0] * 7], [cloud_of(programs[true])], 8, sandbox)
        assert list(found[0].tokens) == programs[true]
        assert [candidate.misfit for candidate in found[:6]] == sorted(c.misfit for c in found[:6])
        assert found[-1].failure.reason == "incomplete"


def test_without_a_cloud_the_likeliest_solid_is_chosen_and_equal_ones_are_built_once(sandbox):
    programs = [normalised(0), [1, 5], normalised(1), normalised(1)]
    (found,) = select([programs], [[-9.0, -1.0, -5.0, -5.0]], [None], 8, sandbox)
    assert [list(c.tokens) for c in found] == [programs[2], programs[0], programs[1]]
    assert found[0].misfit is None


def surface_of(tokens):
    return watertight(kernel.tessellate(kernel.build(CODEC.decode(tokens)), DEFLECTION))


def slightly_wrong(tokens, rng, count):
    """Programs with one number off by 4 levels or more, whose solid has less than 99 % in common with the true one."""
    true, found = surface_of(tokens), []
    while len(found) < count:
        at = int(rng.choice([i for i, t in enumerate(tokens) if GRAMMAR.first_fine > t >= len(TOKEN)]))
        changed = [*tokens]
        changed[at] += int(rng.choice([-1, 1])) * int(rng.integers(4, 40))
        try:
            overlap = volumetric_iou(surface_of(changed), true)
        except (RejectError, ValueError):
            continue
        if changed not in found and overlap < 0.99:
            found.append(changed)
    return found


@pytest.mark.slow
def test_selection_finds_the_truth_among_nine_that_are_slightly_wrong(sandbox):
    rng = np.random.default_rng(0)
    right, total = 0, 4
    for number in range(total):
        true = normalised(number)
        candidates = [*slightly_wrong(true, rng, 9), true]
        (found,) = select([candidates], [[0.0] * 10], [cloud_of(true)], 8, sandbox)
        right += list(found[0].tokens) == true
    assert right == total
