"""Parts of no family: random sketches and sequences."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Arc, Circle, ExtentKind, Frame, Line, Operation
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW
from pipeline.cad.parts.general.bodies import Body
from pipeline.cad.parts.general.words import draft_of
from pipeline.cad.parts.shapes import circle, extrude, rectangle, symmetric
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from tests.unit import sandboxed

FAMILIES = tuple(synthesis.FAMILIES)
PARTS = [synthesis.make_part(5, number, FAMILIES, 1.0) for number in range(300)]
PROGRAMS = [part.program for part in PARTS]


def test_a_part_is_a_function_of_seed_and_number():
    again = synthesis.make_part(5, 17, FAMILIES, 1.0)
    assert documents.dumps(again.program) == documents.dumps(PARTS[17].program)
    assert again.caption == PARTS[17].caption
    assert len({documents.dumps(program) for program in PROGRAMS}) > 295
    assert documents.dumps(synthesis.make_part(6, 17, FAMILIES, 1.0).program) != documents.dumps(PROGRAMS[17])


def test_a_share_replaces_parts_and_leaves_the_others_as_they_are():
    families = [synthesis.make_part(5, number, FAMILIES) for number in range(300)]
    mixed = [synthesis.make_part(5, number, FAMILIES, 0.3) for number in range(300)]
    kinds = Counter((part == families[i], part == PARTS[i]) for i, part in enumerate(mixed))
    assert set(kinds) == {(True, False), (False, True)}
    assert 60 < kinds[False, True] < 120


@pytest.mark.slow
def test_nearly_all_build_and_every_step_changes_the_volume():
    numbers = range(48)
    with Sandbox(sandboxed.step_volumes, 1, timeout_s=60, memory_mib=4096) as sandbox:
        answers = list(sandbox.map([PROGRAMS[number] for number in numbers]))
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    assert len(failed) <= 1
    for number, volumes in zip(numbers, answers, strict=True):
        if not isinstance(volumes, Failure):
            steps = PROGRAMS[number].extrudes
            assert len(volumes) == len(steps)
            for step, before, after in zip(steps[1:], volumes, volumes[1:], strict=False):
                change = (after - before) * (1 if step.operation in (NEW, JOIN) else -1)
                assert change > 1e-6 * before, (number, step.operation)


@pytest.mark.slow
def test_tokens_come_back_and_most_programs_are_short():
    codec, lengths = Codec(8), []
    for program in PROGRAMS[:100]:
        frame = Frame.of_box(*box(program))
        tokens = codec.encode(program.normalised(frame))
        assert codec.encode(codec.decode(tokens)).tolist() == tokens.tolist()
        lengths.append(len(tokens))
    assert np.mean(np.array(lengths) <= 512) >= 0.97
    assert 20 <= np.median(lengths) <= 60  # of real models: 32


def box(program):
    """Around all that is added."""
    points = [
        sketch.plane.to_world(point, height)
        for step in program.extrudes
        for sketch in step.sketches
        for profile in sketch.profiles
        for point in profile.outer.outline()
        for height in step.extent.interval
        if step.operation in (NEW, JOIN)
    ]
    return tuple(np.min(points, axis=0).tolist()), tuple(np.max(points, axis=0).tolist())


def test_all_that_programs_can_say_is_there():
    steps = [step for program in PROGRAMS for step in program.extrudes]
    sketches = [sketch for step in steps for sketch in step.sketches]
    profiles = [profile for sketch in sketches for profile in sketch.profiles]
    curves = [curve for profile in profiles for loop in profile.loops for curve in loop.curves]
    assert {step.operation for step in steps} == set(Operation)
    assert {step.extent.kind for step in steps} == set(ExtentKind)
    assert {step.extent.one < 0 for step in steps if step.extent.kind is ExtentKind.ONE_SIDED} == {True, False}
    assert {type(curve) for curve in curves} == {Line, Arc, Circle}
    assert {len(program.extrudes) for program in PROGRAMS} >= {1, 2, 3, 4, 5, 6}
    assert max(len(program.extrudes) for program in PROGRAMS) <= 8
    assert sum(len(sketch.profiles) > 1 for sketch in sketches) > 30
    assert sum(len(profile.holes) > 0 for profile in profiles) > 60
    normals = np.abs([sketch.plane.normal for sketch in sketches])
    assert [int((normals[:, axis] > 0.999).sum()) > 20 for axis in range(3)] == [True] * 3
    assert (normals.max(axis=1) < 0.99).sum() > 10


def test_half_of_them_are_plain():
    """As real ones are: the median has one extrusion or two."""
    counts = Counter(len(program.extrudes) for program in PROGRAMS)
    assert 0.35 < counts[1] / len(PROGRAMS) < 0.6
    assert counts[1] > counts[2] > counts[3]


def test_captions_are_words():
    for part in PARTS:
        assert re.fullmatch(
            r"(Generate|Create|Design) a (CAD model|CAD design|part) (with|of) [a-zA-Z ,-]+\.", part.caption
        )
    assert len({part.caption for part in PARTS}) > 200
    said = " ".join(part.caption for part in PARTS)
    for word in ("circular hole", "L-shaped", "hexagonal", "slot-shaped", "inclined", "cut", "plate", "thin"):
        assert word in said


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([extrude("top", rectangle(40, 30), 10)], "rectangular"),
        ([extrude("top", rectangle(40, 30), 10), extrude("top", circle(5, 1, 2), 20, JOIN)], "a cylindrical"),
        ([extrude("top", circle(40), 10), extrude("top", rectangle(5, 5), 20, CUT)], "a rectangular"),
        (
            [extrude("top", circle(40), 10), extrude("top", rectangle(38, 38), 10, INTERSECT)],
            "trimmed to a rectangular",
        ),
    ],
)
def test_words_say_what_is_drawn(steps, words):
    draft = draft_of(random.Random(0), steps)
    assert words in " ".join([draft.body, *draft.features])


BLOCK = extrude("top", rectangle(40, 30), 10)


@pytest.mark.parametrize(
    ("step", "taken"),
    [
        (extrude("top", circle(6), 10, CUT), True),
        (extrude("top", circle(6, 60), 10, CUT), False),  # beside the block
        (extrude("top", circle(6), 5, CUT, (0.0, 0.0, 10.0)), False),  # above it
        (extrude("top", rectangle(50, 50), 10, CUT), False),  # leaves nothing
        (extrude("top", circle(0.1), 10, CUT), False),  # next to nothing
        (extrude("top", circle(6), 5, JOIN, (0.0, 0.0, 10.0)), True),  # on its face
        (extrude("top", circle(6), 10, JOIN), False),  # inside it
        (extrude("top", circle(6), 5, JOIN, (0.0, 0.0, 12.0)), False),  # in the air
        (extrude("top", circle(6, 60), 10, NEW), True),  # another body
        (extrude("front", circle(8, 0, 5), symmetric(20), INTERSECT), False),  # leaves too little
        (extrude("top", rectangle(30, 30), 10, INTERSECT), True),
        (extrude("top", rectangle(50, 50), 10, INTERSECT), False),  # leaves all
    ],
)
def test_a_step_has_to_change_the_body(step, taken):
    body = Body()
    assert body.add(BLOCK)
    assert body.add(step) is taken
    assert len(body.steps) == 1 + taken


def test_a_body_knows_inside_and_outside():
    body = Body()
    assert all(body.add(step) for step in (BLOCK, extrude("top", circle(12), 10, CUT)))
    at = np.array([(0.0, 0.0, 5.0), (10.0, 0.0, 5.0), (10.0, 0.0, 11.0), (21.0, 0.0, 5.0)])
    assert body.contains(at).tolist() == [False, True, False, False]
    assert body.box() == ((-20.0, -15.0, 0.0), (20.0, 15.0, 10.0))
