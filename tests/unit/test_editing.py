"""One number of a program changed, or a step deleted."""

import pytest

from pipeline.cad.language.program import CadProgram, Extent, ExtentKind, Extrude, Operation, Plane, Profile, Sketch
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT
from pipeline.cad.parts.shapes import circle, extrude, rectangle, rounded, symmetric, two_sided
from pipeline.cad.solids import kernel
from pipeline.runtime.errors import UserError
from pipeline.serving.editing import changed, groups, without

PLATE = CadProgram(
    (
        extrude("top", rectangle(0.04, 0.02), 0.005),
        extrude("top", circle(0.008, 0.01, 0.0), 0.005, CUT),
        extrude("front", rounded(0.01, 0.006, 0.002), symmetric(0.002), Operation.JOIN, (0.0, 0.0, 0.003)),
    )
)


def numbers(program):
    return {
        parameter.key: parameter.value
        for i, step in enumerate(program.extrudes)
        for group in groups(step, i)
        for parameter in group.parameters
    }


def test_numbers_of_a_step():
    found = numbers(PLATE)
    assert found["0.extent.one"] == 0.005
    assert found["0.loop.0.0.0.width"] == pytest.approx(0.04)
    assert found["1.loop.0.0.0.diameter"] == 0.008
    assert found["1.loop.0.0.0.x"] == pytest.approx(0.01)
    assert found["2.extent.one"] == 0.002


@pytest.mark.parametrize("number", range(15))
def test_every_number_can_be_set_and_is_then_what_was_set(number):
    program = synthesis.make_part(5, number, tuple(synthesis.FAMILIES), 0.5).program
    for key, value in numbers(program).items():
        wanted = value * 1.1 if abs(value) > 1e-9 else 0.001
        assert numbers(changed(program, key, wanted))[key] == pytest.approx(wanted, rel=1e-9), key


def test_volume_follows():
    def volume(program):
        return kernel.volume(kernel.build(CadProgram(program.extrudes[:2])))

    hole = 3.14159265358979 * 0.004**2
    assert volume(PLATE) == pytest.approx((0.04 * 0.02 - hole) * 0.005)
    assert volume(changed(PLATE, "0.loop.0.0.0.width", 0.06)) == pytest.approx((0.06 * 0.02 - hole) * 0.005)
    assert volume(changed(PLATE, "1.loop.0.0.0.diameter", 0.016)) == pytest.approx((0.04 * 0.02 - 4 * hole) * 0.005)
    assert volume(changed(PLATE, "1.plane.0", 0.003)) == pytest.approx(0.04 * 0.02 * 0.005 - hole * 0.002)


def test_an_outline_with_arcs_keeps_its_proportions():
    wider = numbers(changed(PLATE, "2.loop.0.0.0.width", 0.02))
    assert wider["2.loop.0.0.0.height"] == pytest.approx(0.012)


def test_a_centre_takes_holes_along_and_a_size_does_not():
    washer = CadProgram(synthesis.make_part(0, 0, ("washer",)).program.extrudes[:1])
    key = next(key for key in numbers(washer) if key.endswith(".x"))
    holes = [key for key in numbers(washer) if key.endswith(".x") and not key.startswith("0.loop.0.0.0")]
    assert holes
    moved = numbers(changed(washer, key, numbers(washer)[key] + 0.01))
    assert all(moved[hole] == pytest.approx(numbers(washer)[hole] + 0.01) for hole in holes)


def test_centres_are_positions_in_the_part():
    """A sketch that is face down and turned has its own x and y; a user sets the part's."""
    plane = Plane((0.01, 0.02, 0.03), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
    sketch = Sketch(plane, (Profile(circle(0.004, 0.001, 0.002)),))
    program = CadProgram((Extrude((sketch,), Operation.NEW, Extent(ExtentKind.ONE_SIDED, 0.01)),))

    def centres(of):
        found = [each for group in groups(of.extrudes[0], 0) for each in group.parameters if "centre" in each.label]
        return {each.label: (each.key, each.value) for each in found}

    before = centres(program)
    at = plane.to_world((0.001, 0.002))
    assert {label: value for label, (_, value) in before.items()} == pytest.approx(
        {"centre y": at[1], "centre x": at[0]}
    )
    after = changed(program, before["centre x"][0], -0.05)
    assert centres(after)["centre x"][1] == pytest.approx(-0.05)
    assert centres(after)["centre y"][1] == pytest.approx(at[1])
    low, high = kernel.bounding_box(kernel.build(after))
    assert (low[0], high[0]) == pytest.approx((-0.052, -0.048))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("9.extent.one", 1.0, "no number of this program"),
        ("0.extent.two", 1.0, "no number of this program"),
        ("0.loop.0.0.0.diameter", 1.0, "no number of this program"),
        ("0.loop.0.0.9.x", 1.0, "no number of this program"),
        ("0.loop.-1.0.0.x", 1.0, "no number of this program"),
        ("__class__", 1.0, "no number of this program"),
        ("0.extent.one", 0.0, "an extrusion by nothing"),
        ("0.extent.one", float("nan"), "a number is 100000 mm at most"),
        ("0.loop.0.0.0.width", -1.0, "a size is above 0"),
        ("0.loop.0.0.0.width", 1e9, "a number is 100000 mm at most"),
    ],
)
def test_what_cannot_be_set_is_told(key, value, said):
    with pytest.raises(UserError, match=said):
        changed(PLATE, key, value)


def test_steps_are_deleted_while_the_rest_is_a_part():
    assert without(PLATE, 2).extrudes == PLATE.extrudes[:2]
    with pytest.raises(UserError, match="the part would begin with a cut"):
        without(PLATE, 0)
    begun = without(without(PLATE, 1), 0)
    assert [step.operation for step in begun.extrudes] == [Operation.NEW]
    with pytest.raises(UserError, match="the last step"):
        without(begun, 0)
    with pytest.raises(UserError, match="there is no step 4"):
        without(PLATE, 3)


def test_a_side_is_that_of_a_two_sided_extent():
    program = CadProgram((extrude("top", circle(0.01), two_sided(0.002, 0.001)),))
    assert changed(program, "0.extent.two", 0.004).extrudes[0].extent.interval == (-0.004, 0.002)
