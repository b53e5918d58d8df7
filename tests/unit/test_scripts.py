"""Scripts of CadQuery and build123d: the same part when they are read back, after a change by hand, and never run."""

import re

import pytest
from OCP.BRepAlgoAPI import BRepAlgoAPI_Common

from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert, read_program
from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.language.program import CadProgram, Extent, ExtentKind, Extrude, Operation, Plane, Profile, Sketch
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.draft import CUT, NEW
from pipeline.cad.parts.shapes import circle, extrude, rectangle
from pipeline.cad.solids import kernel
from pipeline.runtime.errors import RejectError

FAMILIES = tuple(synthesis.FAMILIES)
LIBRARIES = pytest.mark.parametrize("library", list(Library))
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
HEADS = {
    Library.CADQUERY: "import cadquery as cq\n",
    Library.BUILD123D: "from build123d import *\n",
}


def volume(program):
    return kernel.volume(kernel.build(program))


def statements(text):
    """A script without comments, its numbers apart."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return NUMBER.split(code), [float(number) for number in NUMBER.findall(code)]


@LIBRARIES
def test_a_script_that_was_read_is_written_the_same(library):
    for number in range(30):
        program = synthesis.make_part(3, number, FAMILIES, 0.5).program
        text = script(program, library)
        again = read_script(text)
        assert [e.operation for e in again.extrudes[1:]] == [
            Operation.JOIN if e.operation is Operation.NEW else e.operation for e in program.extrudes[1:]
        ]
        (words, numbers), (words_again, numbers_again) = statements(text), statements(script(again, library))
        assert words_again == words
        assert numbers_again == pytest.approx(numbers, abs=1e-7)


@LIBRARIES
def test_the_same_solid(library):
    for number in range(10):
        program = synthesis.make_part(4, number, FAMILIES, 0.5).program
        assert volume(read_script(script(program, library))) == pytest.approx(volume(program), rel=1e-6)


@pytest.mark.slow
def test_real_models_too(real_models):
    for path in real_models[::9]:
        program = documents.loads(path.read_bytes())
        truth = volume(program)
        for library in Library:
            assert volume(read_script(script(program, library))) == pytest.approx(truth, rel=1e-6)


@LIBRARIES
def test_numbers_are_positions_in_the_part(library):
    """Wherever a sketch has its origin, and however it is turned: a hole on the side of a block."""
    block = extrude("top", rectangle(0.04, 0.02), 0.03)
    side = Plane((0.02, -0.003, 0.01), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))  # x is the part's -y, y its -z
    hole = Extrude((Sketch(side, (Profile(circle(0.004, 0.002, 0.001)),)),), CUT, Extent(ExtentKind.ONE_SIDED, -0.005))
    program = CadProgram((block, hole))
    text = script(program, library)
    assert "circle at (20, -5, 9) on the YZ plane at x = 20" in text
    assert {Library.CADQUERY: ".moveTo(-5, 9).circle(2)", Library.BUILD123D: "Pos(-5, 9) * Circle(2)"}[library] in text
    made, truth = kernel.build(read_script(text)), kernel.build(program)
    assert kernel.volume(made) == pytest.approx(kernel.volume(truth), rel=1e-9)
    assert kernel.volume(BRepAlgoAPI_Common(made, truth).Shape()) == pytest.approx(kernel.volume(truth), rel=1e-9)


@LIBRARIES
@pytest.mark.parametrize(
    "extent",
    [
        Extent(ExtentKind.ONE_SIDED, 0.01),
        Extent(ExtentKind.ONE_SIDED, -0.01),
        Extent(ExtentKind.SYMMETRIC, 0.01),
        Extent(ExtentKind.TWO_SIDED, 0.01, 0.003),
    ],
)
def test_every_extent_on_an_oblique_plane(library, extent):
    plane = Plane((0.001, 0.002, 0.003), (0.6, 0.8, 0.0), (0.0, 0.0, -1.0))
    profiles = (Profile(rectangle(0.04, 0.02)),)
    program = CadProgram((Extrude((Sketch(plane, profiles),), NEW, extent),))
    (again,) = read_script(script(program, library)).extrudes
    assert again.extent.kind is extent.kind
    assert again.extent.interval == pytest.approx(extent.interval)
    assert again.sketches[0].plane.y_axis == pytest.approx(plane.y_axis)


def flat(library):
    """A plate of 40 x 20 x 5 mm with a hole of 8 mm."""
    plate, hole = extrude("top", rectangle(0.04, 0.02), 0.005), extrude("top", circle(0.008), 0.005, CUT)
    return script(CadProgram((plate, hole)), library)


@LIBRARIES
def test_a_number_changed_by_hand(library):
    text = flat(library)
    wider = text.replace("(40, 20)", "(width, width / 2 - 3 * 5)").replace("\n\n", "\n\nwidth = 2 * (30 + 4)\n", 1)
    assert wider != text
    assert volume(read_script(wider)) == pytest.approx((0.068 * 0.019 - 3.14159265 * 0.004**2) * 0.005, rel=1e-6)


@pytest.mark.parametrize(
    ("library", "text", "said"),
    [
        (Library.CADQUERY, "part = cq.importers.importStep('x')", "line 2: `cq.importers"),
        (
            Library.CADQUERY,
            "import os\nos.system('touch run')",
            "line 3: `os.system('touch run')` is more than is read",
        ),
        (Library.CADQUERY, "x = __import__('os').system('touch run')", "line 2: `__import__` is not known"),
        (Library.CADQUERY, "x = open('run', 'w')", "line 2: `open` is not known"),
        (Library.CADQUERY, "x = ().__class__", "line 2: `().__class__` is more than is read"),
        (Library.CADQUERY, "while True:\n    x = 1", "is more than is read of a script"),
        (Library.CADQUERY, "x = cq.Workplane('QQ')", "no plane 'QQ'; there are XY, "),
        (Library.CADQUERY, "x = cq.Workplane('XY').rect(1)", "line 2: `rect`: missing 1 required positional argument"),
        (Library.CADQUERY, "x = cq.Workplane('XY').rect(1, -1)", "a rectangle of 1 x -1"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(0)", "a circle of radius 0"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle('a')", "'a' is not a number"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(9e99)", "inf is out of range"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(1 / 0)", "line 2: float division by zero"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(1).extrude(0)", "an extrusion by 0"),
        (Library.CADQUERY, "x = cq.Workplane('XY').extrude(1)", "nothing is drawn"),
        (Library.CADQUERY, "x = cq.Workplane('XY').lineTo(1, 0).extrude(1)", "`extrude` before `close`"),
        (Library.CADQUERY, "x = cq.Workplane('XY').lineTo(1, 0).spline(1)", "`spline` is not known"),
        (Library.CADQUERY, "x = cq.Plane((0, 0, 0), (0, 0, 1), (0, 0, 2))", "a plane's axes are parallel"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(5).moveTo(5, 0).circle(4).extrude(1)", "cross or touch"),
        (Library.BUILD123D, "x = extrude(Plane.XY * (Circle(5) - Pos(20, 0) * Circle(1)), amount=1)", "beside another"),
        (Library.CADQUERY, "x = cq.Workplane('XY').circle(5).extrude(5, both=1)", "1.0 is neither True nor False"),
        (
            Library.CADQUERY,
            "x = cq.Workplane('XY').circle(5).extrude(5, **{'both': True})",
            "`**` is more",
        ),
        (Library.CADQUERY, "part = 3", "no_geometry"),
        (Library.CADQUERY, "part = (", "line 2: '(' was never closed"),
        (Library.BUILD123D, "part = extrude(Rectangle(1, 1), amount=1)", "`extrude` takes a plane times a sketch"),
        (Library.BUILD123D, "part = Part() + Rectangle(1, 1)", "only what has been extruded"),
        (Library.BUILD123D, "x = make_face([Line((0, 0), (1, 0)), Line((5, 0), (0, 0))])", "edges do not meet"),
        (Library.BUILD123D, "x = Rectangle(1, 1) * Plane.XY", "Mult of a _Region and a _On is not read"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_run(library, text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RejectError) as error:
        read_script(HEADS[library] + text)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["(" * 3000, "1" + "-1" * 50_000, "9" * 5000], ids=["brackets", "terms", "digits"])
def test_nothing_nests_so_deep_that_reading_dies(text):
    with pytest.raises(RejectError, match="malformed_script"):
        read_script(f"{HEADS[Library.CADQUERY]}part = {text}")


def test_a_script_of_no_library():
    with pytest.raises(RejectError, match="imports neither cadquery nor build123d"):
        read_script("part = 1")


def test_long_loops_nest_no_deeper():
    points = "".join(f".lineTo({i}, {i % 2 + 1})" for i in range(1, 700))
    text = f"{HEADS[Library.CADQUERY]}part = cq.Workplane('XY').moveTo(0, 0){points}.lineTo(699, 0).close().extrude(1)"
    assert read_script(text).num_curves == 701


@LIBRARIES
def test_files(library, tmp_path):
    program = synthesis.make_part(0, 0, ("flange",)).program
    convert(ConvertTask(program, tmp_path / "part.py", WriteOptions(library=library)))
    assert f"import {library}" in (text := (tmp_path / "part.py").read_text()) or f"from {library} import" in text
    facts = convert(ConvertTask(tmp_path / "part.py", tmp_path / "part.step"))
    assert facts["volume"] == pytest.approx(volume(read_program(tmp_path / "part.py")))
