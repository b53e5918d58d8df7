"""What people write for CadQuery is read as the same solid, or refused by line and word; nothing is run."""

import json
import subprocess

import pytest
from OCP.BRepGProp import BRepGProp
from OCP.GProp import GProp_GProps

from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.language.program import Operation
from pipeline.cad.parts.describe import describe
from pipeline.cad.solids import kernel
from pipeline.runtime.errors import RejectError
from tests.conftest import ROOT
from tests.unit.cadquery_scripts import MEASURED, SCRIPTS

HEAD = "import cadquery as cq\n"
PLATE = "part = cq.Workplane('XY').box(40, 30, 10)"
DISC = "cq.Workplane().moveTo(1, 0).threePointArc((0, 1), (-1, 0)).threePointArc((0, -1), (1, 0)).close()"
CADQUERY = ROOT / ".venv-cadquery" / "bin" / "python"  # `make libraries` sets it up
RUNNER = """
import json, sys
import cadquery as cq
cq.exporters.export = lambda *_: None
for name, text in json.load(sys.stdin).items():
    shown = []
    names = {"show_object": shown.append}
    exec(text, names)
    made = [value for value in names.values() if isinstance(value, cq.Workplane)]
    solid = cq.Compound.makeCompound(names.get("part", shown[0] if shown else made[-1]).vals())
    assert solid.isValid()
    print(json.dumps([name, solid.Volume(), solid.Center().toTuple()]))
"""


def measured(text):
    """Volume and centre of mass of what is read, built in millimetres as CadQuery does."""
    properties = GProp_GProps()
    BRepGProp.VolumeProperties_s(kernel.build(read_script(text).scaled(1e3)), properties)
    centre = properties.CentreOfMass()
    return properties.Mass(), (centre.X(), centre.Y(), centre.Z())


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_people_write_is_the_same_solid(name):
    volume, centre = measured(SCRIPTS[name])
    assert volume == pytest.approx(MEASURED[name][0], rel=1e-6)
    assert centre == pytest.approx(MEASURED[name][1], abs=1e-5)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_written_as_the_same_solid_again(name):
    for library in Library:
        assert measured(script(read_script(SCRIPTS[name]), library))[0] == pytest.approx(MEASURED[name][0], rel=1e-6)


@pytest.mark.slow
def test_in_cadquery_itself():
    """The scripts, and what we write of them, in CadQuery."""
    if not CADQUERY.exists():
        pytest.skip(f"no {CADQUERY.relative_to(ROOT)}")
    texts = {
        f"{i} {name}": text
        for name, text in SCRIPTS.items()
        for i, text in enumerate((text, script(read_script(text), Library.CADQUERY)))
    }
    done = subprocess.run([CADQUERY, "-c", RUNNER], input=json.dumps(texts), capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(SCRIPTS)
    for name, volume, centre in found:
        assert volume == pytest.approx(MEASURED[name[2:]][0], rel=1e-6), name
        assert centre == pytest.approx(MEASURED[name[2:]][1], abs=1e-5), name


def test_holes_and_boxes_are_steps_that_are_read_well():
    program = read_script(f"{HEAD}{PLATE}.faces('>Z').workplane().center(5, 0).cboreHole(4, 8, 3)")
    assert describe(program) == [
        "1. new body: a 40 x 30 mm rectangle on the XY plane, 5 mm to either side",
        "2. cut: a 4 mm circle at (5, 0, 5) on the XY plane at z = 5, 10 mm against the normal",
        "3. cut: an 8 mm circle at (5, 0, 5) on the XY plane at z = 5, 3 mm against the normal",
    ]


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("a = cq.Workplane().box(1, 1, 1)\nb = cq.Workplane().box(2, 2, 2)", 8.0),
        ("a = cq.Workplane().box(1, 1, 1)\nb = cq.Workplane().box(2, 2, 2)\na = a.translate((1, 0, 0))", 1.0),
        ("a = cq.Workplane().box(1, 1, 1)\nb = cq.Workplane().box(2, 2, 2)\nshow_object(a, name='a')", 1.0),
        ("part = cq.Workplane().box(1, 1, 1)\nb = cq.Workplane().box(2, 2, 2)\nshow_object(b)", 1.0),
        ("x, (y, z) = 1, (2, 3)\na = cq.Workplane().box(x, y, z)", 6.0),
        ("a = cq.Workplane()\nfor x in range(0, 9, 3):\n    a = a + cq.Workplane().center(x, 0).box(1, 1, 1)", 3.0),
        ("a = cq.Workplane().pushPoints([(3 * i, j) for i, j in [(0, 0), (1, 2)]]).box(1, 1, 2 ** 2 % 3)", 2.0),
    ],
)
def test_which_part_is_meant(text, volume):
    assert measured(HEAD + text)[0] == pytest.approx(volume)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{PLATE}.faces('>Z').workplane().cskHole(3, 6, 82)", "line 2: `cskHole` is not known"),
        ("part = (\n    cq.Workplane('XY')\n    .box(1, 2, 3)\n    .sphere(4)\n)", "line 5: `sphere` is not known"),
        ("part = (\n    cq.Workplane()\n    .circle(1)\n    .extrude(1, taper=3)\n)", "line 5: `extrude` with a taper"),
        ("part = cq.Workplane().circle(1).extrude('next')", "`extrude` until 'next' is not read"),
        ("part = cq.Workplane().circle(1).extrude(1, True, True)", "line 2: `extrude`: takes"),
        (f"{PLATE}.circle(2)", "`circle` around what is on the stack here is not read"),
        (f"{PLATE}.faces('>Q')", "`faces` is read of a solid, with one of >X, <X, "),
        (f"{PLATE}.faces('>Z').workplane(centerOption='CenterOfMass')", "ProjectedOrigin"),
        (
            "part = cq.Workplane('YZ').circle(4).extrude(9).faces('>Z')",
            "which face is furthest along z is not read here",
        ),
        (f"{PLATE}.faces('>Z').workplane().rect(99, 99).cutBlind(-2).faces('>Z')", "which face is furthest along z"),
        (f"{PLATE}.faces('>Z').workplane(offset=1).hole(3)", "`hole` through a part that does not reach the workplane"),
        ("part = cq.Workplane().rect(9, 9).circle(4).circle(2).extrude(1)", "a loop within a hole"),
        ("part = cq.Workplane().circle(4).workplane(offset=3)", "`workplane` before what is drawn is extruded"),
        ("part = cq.Workplane().circle(4).cutThruAll()", "`cutThruAll` where there is no solid"),
        ("part = cq.Workplane().circle(4).lineTo(1, 1)", "`lineTo` from no point"),
        ("part = cq.Workplane().lineTo(9, 0).lineTo(9, 3).lineTo(1, 3).mirrorY()", "begin and end on the axis"),
        ("part = cq.Workplane().circle(4).offset2D(1).extrude(1)", "`offset2D` of a circle is not read"),
        ("part = cq.Workplane().rect(4, 3).offset2D(-2).extrude(1)", "`offset2D` by so much that an edge is gone"),
        (f"{PLATE}.edges('>Z').fillet(1)", "`edges` is read of a solid, with one of |X"),
        (f"{PLATE}.edges('|X').fillet(1)", "`fillet` is read of one extrusion along that axis"),
        (f"{PLATE}.edges('|Z').fillet(15)", "`fillet` for which there is no room"),
        (f"{PLATE}.faces('>Z').workplane().center(18, 13).hole(2).edges('|Z').chamfer(2)", "that a hole is near to"),
        ("part = cq.Workplane().rarray(1, 1, 2.5, 1).circle(1).extrude(1)", "2.5 is no number from 1 to 1000"),
        ("part = cq.Workplane().polarArray(9, 0, 360, 1e6).circle(1).extrude(1)", "is no number from 1 to 1000"),
        ("part = cq.Workplane().rarray(9, 9, 30, 30).polygon(999, 2)", "`polygon` of more than 20,000 curves"),
        (
            "a = [[[k for k in range(999)] for j in range(999)] for i in range(999)]",
            "`for` takes more than 10,000 turns",
        ),
        ("for i in range(999):\n    for j in range(999):\n        a = i", "`for` takes more than 10,000 turns"),
        ("for i in 3:\n    a = i", "`for` goes through a list or a range, not 3.0"),
        ("a, b = 1", "`(a, b)` is no name for 1.0"),
        (f"a = cq.Workplane().box(9, 9, 9).cut(cq.Workplane().box(1, 1, 1))\n{PLATE}.cut(a)", "do it step by step"),
        ("part = cq.Workplane().rarray(1, 1, 2, 2, center=()).circle(1).extrude(1)", "True and False, or 2 of them"),
        ("part = cq.Workplane().line(0, 0).line(0, 0).close().extrude(1).edges('|Z').chamfer(.1)", "line 2: "),
        (f"part = {DISC}.offset2D(1).extrude(1)", "`offset2D` of a circle is not read"),
        (
            "part = cq.Workplane().rect(10, 10).moveTo(4, 4).circle(.5).extrude(2).edges('|Z').fillet(4)",
            "that a hole is near to",
        ),
        (f"{PLATE}\nfor i in range(40):\n    part = part.add(part)", "a part of more than 20,000 curves"),
        (
            "part = cq.Workplane()\nfor i in range(999):\n    part = part.rarray(1, 1, 99, 9).circle(.1)",
            "more than 20,000 curves are drawn",
        ),
        ("import math\na = math.sqrt(-1)", "line 3: math domain error"),
        ("a = cq.Workplane().box(1, 1, 1).val().wrapped", "is more than is read of a script"),
    ],
)
def test_what_is_not_read_is_told_by_its_line_and_word(text, said):
    with pytest.raises(RejectError) as error:
        read_script(HEAD + text)
    assert error.value.reason == "malformed_script"
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("first", "operation", "second", "kept"),
    [
        (
            "box(4, 4, 4)",
            "union",
            "box(2, 2, 8).translate((9, 0, 0)).faces('>Z').workplane(origin=(9, 0, 0)).hole(1)",
            5,
        ),
        ("box(4, 4, 4)", "union", "box(2, 2, 8).faces('>Z').workplane().hole(1)", 3),
        ("box(4, 4, 4)", "cut", "box(2, 2, 8).union(cq.Workplane().box(8, 1, 1))", 3),
        ("box(4, 4, 4)", "intersect", "box(2, 2, 8).faces('>Z').workplane().hole(1)", 3),
    ],
)
def test_what_the_language_can_say_in_another_order(first, operation, second, kept):
    """Compared point by point: the language has no brackets."""
    a, b = (f"cq.Workplane().{each}" for each in (first, second))
    both = read_script(f"{HEAD}part = {a}.{operation}({b})")
    assert len(both.extrudes) <= kept
    one, other = (kernel.build(read_script(f"{HEAD}part = {each}").scaled(1e3)) for each in (a, b))
    made = kernel.BOOLEANS[{"union": Operation.JOIN, "cut": Operation.CUT}.get(operation, Operation.INTERSECT)]
    truth = made(one, other).Shape()
    assert kernel.volume(kernel.build(both.scaled(1e3))) == pytest.approx(kernel.volume(truth), rel=1e-9)
