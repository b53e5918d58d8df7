"""Profiles are simple: which values the decoder leaves out, and that it leaves out no true program."""

import numpy as np
import pytest

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.grammar import State
from pipeline.cad.language.planar import cross_or_touch
from pipeline.cad.language.tokens import FINE_OFFSETS, NUM_COMMANDS, TOKEN
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.decoding.profiles import Drawing, SimpleProfiles
from tests.unit.conftest import GRAMMAR
from tests.unit.test_generation import normalised, prompts_of

PROFILES = SimpleProfiles(GRAMMAR)
EXTRUDE = "NEW XY 100 150 "


def after(text):
    """Grammar state and drawing after tokens by name."""
    state, drawing = State(), Drawing()
    for name in (EXTRUDE + text).split():
        token = GRAMMAR.token(name)
        drawing, state = PROFILES.advance(drawing, state, token), GRAMMAR.advance(state, token)
    return state, drawing


def allowed(text):
    state, drawing = after(text)
    return PROFILES.restrict(GRAMMAR.allowed(state), drawing, state)


def levels(text):
    return np.flatnonzero(allowed(text)[NUM_COMMANDS : GRAMMAR.first_fine]).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LOOP 50 50 200 150 100", range(51, 256)),  # down to the first edge, and no further
        ("LOOP 50 50 200 150 100 LINE 120", [*range(51, 150), *range(151, 256)]),  # not back along the last edge
        ("RECTANGLE 50 50 200 200 HOLE_CIRCLE 40 100", range(71, 180)),  # a radius of 20 levels from the sides
        ("RECTANGLE 50 50 200 200 HOLE_CIRCLE 40 100 100 100", range(141, 180)),  # and beside the first
        ("RECTANGLE 50 50 200 200 HOLE_RECTANGLE 100 60 150", range(60, 200)),  # 60 may be made finer
        ("RECTANGLE 50 50 200 200 HOLE_LOOP 100", range(51, 200)),  # begins inside
        ("CIRCLE 100 128 128 HOLE_CIRCLE 40 128", range(99, 158)),
        ("RECTANGLE 50 50 200 200 CIRCLE 40 100", range(1, 256)),  # another profile may lie anywhere
    ],
)
def test_values_that_would_cross_are_left_out(text, expected):
    assert levels(text) == list(expected)


@pytest.mark.parametrize(
    ("text", "closes"),
    [
        ("LOOP 50 50 200 150 100", True),
        ("LOOP 50 50 200 150 100 60 LINE 180 140", False),  # through the edge before
        ("LOOP 50 50 LINE 200 50 LINE 120 60 LINE 60 50", False),
        ("RECTANGLE 50 50 200 200 HOLE_CIRCLE 10 100 100 HOLE_LOOP 60 60 150 150 60", False),  # around a hole
        ("RECTANGLE 50 50 200 200 HOLE_CIRCLE 10 180 180 HOLE_LOOP 60 60 150 150 60", True),
    ],
)
def test_a_loop_closes_where_it_crosses_nothing(text, closes):
    assert allowed(text)[TOKEN["CLOSE"]] == closes


def test_arcs_are_looked_at_as_curves():
    sweeps = levels("LOOP 100 100 150 110 100 ARC 100 105")  # clockwise it bulges into the strip that is drawn
    half_turn = GRAMMAR.turn // 2
    assert {GRAMMAR.half + 2 * half_turn - 8, GRAMMAR.half + 8, GRAMMAR.half - half_turn + 8} <= set(sweeps)
    assert min(sweeps) > GRAMMAR.half - half_turn - 8


def test_where_nothing_is_left_the_grammar_holds():
    state, drawing = after("RECTANGLE 50 50 200 200 HOLE_CIRCLE 40 20")  # outside, wherever it goes from here
    mask = GRAMMAR.allowed(state)
    assert np.array_equal(PROFILES.restrict(mask, drawing, state), mask)


def test_a_fine_token_is_looked_at_too():
    text = "RECTANGLE 50 50 200 200 HOLE_CIRCLE 41 100 71"  # half a level from the side
    offsets = [offset for offset in FINE_OFFSETS if allowed(text)[GRAMMAR.fine(offset)]]
    assert offsets == [offset for offset in FINE_OFFSETS if offset > -16]


@pytest.mark.slow
def test_true_programs_pass():
    for number in range(60):
        state, drawing = State(), Drawing()
        for token in normalised(number):
            assert PROFILES.restrict(GRAMMAR.allowed(state), drawing, state)[token]
            drawing, state = PROFILES.advance(drawing, state, token), GRAMMAR.advance(state, token)


@pytest.mark.slow
def test_an_untrained_model_draws_simple_profiles(model):
    crossing = total = 0
    for programs in generate_tokens(model, prompts_of(model), Decoding(80, 4, temperature=1.0)):
        for tokens in programs:
            for extrude in Codec(GRAMMAR.bits).decode(tokens).extrudes:
                for profile in extrude.sketches[0].profiles:
                    total += 1
                    crossing += cross_or_touch(profile.loops)
    assert total > 10
    assert crossing < 0.2 * total  # the budget's end leaves some no way out
