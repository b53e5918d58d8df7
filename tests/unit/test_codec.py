"""Tokens: grammar, canonical encoding, and the way back."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.grammar import Grammar, State
from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Loop,
    Operation,
    Profile,
)
from pipeline.cad.language.tokens import FINE, NUM_COMMANDS, TOKEN, GrammarError
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.shapes import circle, extrude, rectangle, rounded, symmetric, two_sided
from pipeline.runtime.errors import RejectError

BITS = st.integers(6, 12)


def names(codec, tokens):
    return [codec.grammar.name(int(token)) for token in tokens]


def random_program(grammar, seed, budget):
    """A random walk through the automaton."""
    rng = random.Random(seed)
    state, tokens = State(), []
    while state.slot != "done":
        allowed = np.flatnonzero(grammar.allowed(state, budget - len(tokens))).tolist()
        commands = [token for token in allowed if token < NUM_COMMANDS]
        tokens.append(rng.choice(commands if commands and rng.random() < 0.6 else allowed))
        state = grammar.advance(state, tokens[-1])
    return tokens


@settings(max_examples=300, deadline=None)
@given(bits=BITS, seed=st.integers(0, 2**32), budget=st.integers(12, 120))
@pytest.mark.slow
def test_every_grammatical_sequence_ends_in_time_and_decodes(bits, seed, budget):
    codec = Codec(bits)
    tokens = random_program(codec.grammar, seed, budget)
    assert len(tokens) <= budget
    program = codec.decode(tokens)
    assert program.extrudes
    # What is written can be read by others, and by us.
    assert documents.loads(documents.dumps(program)).num_curves == program.num_curves


@settings(max_examples=60, deadline=None)
@given(bits=BITS, number=st.integers(0, 500))
@pytest.mark.slow
def test_encoding_is_a_fixed_point(bits, number):
    codec = Codec(bits)
    part = synthesis.make_part(1, number, tuple(synthesis.FAMILIES)).program
    scale = max(abs(x) for e in part.extrudes for s in e.sketches for x in s.plane.origin) + 0.15
    from pipeline.cad.language.program import Frame

    tokens = codec.encode(part.normalised(Frame((0.0, 0.0, 0.0), scale)))
    state = State()
    for token in tokens:
        state = codec.grammar.advance(state, int(token))
    assert state.slot == "done"
    assert codec.encode(codec.decode(tokens)).tolist() == tokens.tolist()


@settings(max_examples=200, deadline=None)
@given(bits=BITS, seed=st.integers(0, 2**32), cut=st.integers(0, 40), junk=st.integers(0, 5000))
@pytest.mark.slow
def test_anything_else_is_refused_by_name(bits, seed, cut, junk):
    codec = Codec(bits)
    tokens = random_program(codec.grammar, seed, 60)
    broken = [*tokens[: cut % len(tokens)], junk]
    try:
        codec.decode(broken)
    except RejectError as error:
        assert error.reason in ("ungrammatical", "incomplete")


def single(profile, extent=None, at=(0.0, 0.0, 0.0)):
    return CadProgram((extrude("top", [profile], extent or symmetric(0.5), at=at),))


def test_the_same_geometry_written_differently_gives_the_same_tokens():
    codec = Codec(8)
    loop = rounded(1.0, 0.6, 0.1)
    variants = [
        single(Profile(loop, (circle(0.2, 0.2), circle(0.2, -0.2)))),
        single(Profile(loop, (circle(0.2, -0.2), circle(0.2, 0.2)))),
        single(Profile(loop.reversed(), (circle(0.2, -0.2), circle(0.2, 0.2)))),
        single(Profile(Loop(loop.curves[3:] + loop.curves[:3]), (circle(0.2, -0.2), circle(0.2, 0.2)))),
        single(Profile(loop, (circle(0.2, -0.2), circle(0.2, 0.2))), two_sided(0.5, 0.5)),
        single(Profile(loop, (circle(0.2, -0.2), circle(0.2, 0.2))), 1.0, at=(0.0, 0.0, -0.5)),
        single(Profile(loop, (circle(0.2, -0.2), circle(0.2, 0.2))), -1.0, at=(0.0, 0.0, 0.5)),
    ]
    first = codec.encode(variants[0]).tolist()
    for variant in variants[1:]:
        assert codec.encode(variant).tolist() == first


def test_a_plate_with_two_holes_takes_fourteen_tokens():
    codec = Codec(8, tolerance=1.0)
    plate = Profile(rectangle(2.0, 1.0), (circle(0.25, 0.5), circle(0.25, -0.5)))
    # Half a level off is on the lattice: one place more, and the whole is rounded.
    tokens = codec.encode(single(plate, symmetric(0.1001)))
    assert names(codec, tokens) == [
        *("NEW", "XY", "115", "141"),
        *("RECTANGLE", "1", "64", "255", "192"),
        *("HOLE_CIRCLE", "32", "64", "128", "192", "128", "END"),
    ]  # fmt: skip


def test_what_is_on_the_lattice_is_written_exactly():
    codec = Codec(8, tolerance=1.0)
    tokens = codec.encode(single(Profile(rectangle(2.0, 1.0)), symmetric(0.5)))
    assert names(codec, tokens)[2:4] == ["64", "+16"]  # 63.5 levels below the middle
    corners = codec.decode(tokens).extrudes[0].sketches[0].profiles[0].outer.edges
    assert max(edge.start[1] for edge in corners) == 0.5


def test_a_rounded_rectangle_gives_its_radius_once():
    codec = Codec(8, tolerance=1.0)
    tokens = codec.encode(single(Profile(rounded(1.999, 1.0, 0.25))))
    shown = [name for name in names(codec, tokens) if not name.lstrip("+-").isdigit()]
    assert shown == ["NEW", "XY", "LOOP", "FILLET", "ROUND", "ROUND", "ROUND", "CLOSE", "END"]
    loop = codec.decode(tokens).extrudes[0].sketches[0].profiles[0].outer
    assert [abs(edge.sweep) for edge in loop.edges if isinstance(edge, Arc)] == pytest.approx([np.pi / 2] * 4)
    assert codec.encode(codec.decode(tokens)).tolist() == tokens.tolist()


@pytest.mark.parametrize("thickness", [0.3, 0.03, 0.003])
def test_rounding_costs_no_more_volume_than_the_tolerance(thickness):
    """A thin frame on a thin plate: what a plain lattice destroys."""
    outer, inner = rectangle(1.95, 1.37), rectangle(1.95 - 2 * thickness, 1.37 - 2 * thickness)
    frame = single(Profile(outer, (inner,)), symmetric(thickness / 2), at=(0.013, 0.007, 0.111))

    def volume(program):
        return sum(
            (high - low) * (p.outer.signed_area - sum(hole.signed_area for hole in p.holes))
            for e in program.extrudes
            for (low, high) in [e.extent.interval]
            for s in e.sketches
            for p in s.profiles
        )

    lengths = []
    for tolerance in (0.1, 0.01, 0.001):
        codec = Codec(8, tolerance)
        tokens = codec.encode(frame)
        lengths.append(len(tokens))
        # The finest step bounds what can be kept of a wall of a few of them.
        floor = 8 * codec.step / FINE / thickness
        assert abs(volume(codec.decode(tokens)) / volume(frame) - 1) < max(2 * tolerance, floor)
    assert lengths == sorted(lengths)


def test_faces_that_touch_still_touch():
    """The plate's upper face and the boss' foot are one place: both are refined, or neither."""
    plate = extrude("top", rectangle(2.0, 2.0), 0.0123)
    boss = extrude("top", circle(0.2), 0.9, Operation.JOIN, at=(0.0, 0.0, 0.0123))
    codec = Codec(8, 0.02)
    first, second = codec.decode(codec.encode(CadProgram((plate, boss)))).extrudes
    low, high = first.extent.interval
    assert high - low == pytest.approx(0.0123, rel=0.05)
    top = first.sketches[0].plane.origin[2] + high
    assert second.sketches[0].plane.origin[2] == pytest.approx(top, abs=1e-12)


def test_centre_and_rim_are_lattice_points():
    codec = Codec(8)
    program = codec.decode(codec.encode(single(Profile(rectangle(2.0, 2.0), (circle(1.0),)))))
    profile = program.extrudes[0].sketches[0].profiles[0]
    assert {abs(x) for edge in profile.outer.edges for x in edge.start} == {1.0}
    hole = profile.holes[0].curves[0]
    assert isinstance(hole, Circle)
    assert hole.centre == (0.0, 0.0)


def test_quarter_and_half_turns_are_exact():
    codec = Codec(8)
    loop = (
        codec.decode(codec.encode(single(Profile(rounded(1.0, 0.5, 0.25))))).extrudes[0].sketches[0].profiles[0].outer
    )
    assert {edge.sweep for edge in loop.edges if isinstance(edge, Arc)} == {np.pi}  # two quarters are a half


def test_tools_that_reach_beyond_the_solid_are_kept():
    codec = Codec(8)
    big = CadProgram(
        (*single(Profile(rectangle(2, 2))).extrudes, extrude("top", rectangle(6.0, 0.5), 3.0, Operation.CUT))
    )
    assert codec.decode(codec.encode(big)).extrudes[1].extent == Extent(
        ExtentKind.ONE_SIDED, pytest.approx(3.0, abs=0.07)
    )
    with pytest.raises(RejectError, match="out_of_range"):
        codec.encode(single(Profile(rectangle(40.0, 1.0))))


def test_thin_parts_keep_a_fine_step_of_thickness():
    codec = Codec(6)
    tokens = codec.encode(single(Profile(rectangle(2.0, 2.0)), symmetric(1e-4)))
    assert codec.decode(tokens).extrudes[0].extent.one == pytest.approx(codec.step / FINE)


@pytest.mark.slow
def test_real_models_encode_to_a_fixed_point(real_models):
    """In an approximate frame: the exact one needs the kernel."""
    from pipeline.cad.language.program import Frame

    codec = Codec(8)
    for path in real_models:
        program = documents.loads(path.read_bytes())
        points = [
            sketch.plane.to_world(point, height)
            for extrude_ in program.extrudes
            for sketch in extrude_.sketches
            for profile in sketch.profiles
            for point in profile.outer.outline()
            for height in extrude_.extent.interval
        ]
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        tokens = codec.encode(program.normalised(Frame.of_box(tuple(low), tuple(high))))
        assert codec.encode(codec.decode(tokens)).tolist() == tokens.tolist(), path.name


def test_a_token_out_of_place_is_an_error():
    grammar = Grammar(8)
    with pytest.raises(GrammarError, match="END cannot stand where operation is due"):
        grammar.advance(State(), TOKEN["END"])
    with pytest.raises(GrammarError):
        grammar.advance(State(), grammar.size)


def test_zero_lengths_are_not_allowed():
    grammar = Grammar(8)
    state = State()
    for token in (TOKEN["NEW"], TOKEN["XY"], grammar.value(100)):
        state = grammar.advance(state, token)
    assert not grammar.allowed(state)[grammar.value(99)]  # high above low
    same = grammar.advance(state, grammar.value(100))
    assert np.flatnonzero(grammar.allowed(same)).tolist() == [grammar.fine(offset) for offset in range(1, 17)]
    for token in (grammar.value(101), TOKEN["LOOP"], grammar.value(50), grammar.value(60)):
        state = grammar.advance(state, token)
    assert not grammar.allowed(grammar.advance(state, grammar.value(50)))[TOKEN["LINE"]]  # an edge has a length
    assert not grammar.allowed(state)[TOKEN["CLOSE"]]  # a loop has edges


def test_a_program_with_two_edges_of_which_one_is_an_arc_closes():
    half = Loop((Line((-0.5, 0.0), (0.5, 0.0)), Arc.through((0.5, 0.0), (-0.5, 0.0), np.pi)))
    codec = Codec(8)
    program = CadProgram((Extrude(single(Profile(half)).extrudes[0].sketches, Operation.NEW, symmetric(0.2)),))
    assert names(codec, codec.encode(program))[-3:] == ["CLOSE_ARC", "176", "END"]  # 48 of 96 to a turn
