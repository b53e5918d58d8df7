"""CAD files: what is written can be read, and what is wrong is named."""

import dataclasses
import hashlib
import json
import math
import re
import struct

import numpy as np
import pytest
import trimesh
from OCP.IFSelect import IFSelect_RetDone
from OCP.Interface import Interface_Static
from OCP.STEPControl import STEPControl_AsIs, STEPControl_Writer

from pipeline.cad.exchange.files import (
    CheckTask,
    ConvertTask,
    WriteOptions,
    check,
    convert,
    read_program,
    read_surface,
)
from pipeline.cad.exchange.formats import StepSchema, Unit, check_pair, check_unit, check_written_unit
from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.exchange.showing import ShowTask, look
from pipeline.cad.exchange.step import read_step
from pipeline.cad.language.codec import TOLERANCE
from pipeline.cad.language.program import (
    CadProgram,
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Loop,
    Plane,
    Profile,
    Sketch,
)
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import draft, synthesis
from pipeline.cad.parts.describe import describe, describe_extrude, describe_loop, sentence
from pipeline.cad.parts.shapes import circle, extrude, rectangle, rounded, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import Surface, closed, merge_vertices, volumetric_iou, watertight
from pipeline.runtime.errors import RejectError, UserError
from stages.tools.cad import DEFAULT_TOLERANCE

FLANGE = synthesis.make_part(0, 0, ("flange",)).program


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A flange in every format."""
    folder = tmp_path_factory.mktemp("files")
    for suffix in ("json", "tokens", "step", "stl", "ply", "obj", "glb", "png"):
        convert(ConvertTask(FLANGE, folder / f"part.{suffix}"))
    return folder


@pytest.mark.slow
def test_programs_survive(folder):
    assert read_program(folder / "part.json") == FLANGE
    again = read_program(folder / "part.tokens")
    assert kernel.volume(kernel.build(again)) == pytest.approx(kernel.volume(kernel.build(FLANGE)), rel=0.03)
    convert(ConvertTask(folder / "part.tokens", folder / "again.tokens"))
    # Decoded numbers lie on the lattice: a second time nothing is lost.
    assert (folder / "again.tokens").read_text().split("\n")[1:] == (folder / "part.tokens").read_text().split("\n")[1:]


def test_every_format_holds_the_same_solid(folder):
    truth = kernel.volume(kernel.build(FLANGE))
    assert check(CheckTask(folder / "part.step", 8, 0.01))["volume"] == pytest.approx(truth, rel=1e-6)
    for suffix in ("stl", "ply", "obj", "glb"):
        surface = read_surface(folder / f"part.{suffix}")
        assert surface.is_watertight
        assert surface.volume == pytest.approx(truth, rel=0.01)
    step, glb = (read_surface_of_step(folder / "part.step"), read_surface(folder / "part.glb"))
    assert volumetric_iou(step, glb) > 0.99  # also the same way up


def read_surface_of_step(path):
    return watertight(kernel.tessellate(read_step(path), 1e-4))


def test_step_says_its_schema_and_unit_and_no_time(folder):
    ap214 = (folder / "part.step").read_text()
    assert "AUTOMOTIVE_DESIGN" in ap214
    assert ".MILLI.,.METRE." in ap214
    convert(ConvertTask(FLANGE, folder / "part242.step", WriteOptions(schema=StepSchema.AP242)))
    assert "AP242_MANAGED_MODEL_BASED_3D_ENGINEERING" in (folder / "part242.step").read_text()
    assert "1970-01-01T00:00:00" in ap214


@pytest.mark.parametrize(("name", "metres"), [("INCH", 0.0254), ("CM", 0.01), ("M", 1.0), ("FT", 0.3048)])
def test_step_is_read_in_the_unit_that_it_says(name, metres, folder, tmp_path):
    """What another system wrote in its unit: the numbers in the file differ, the solid does not."""
    shape, path = read_step(folder / "part.step"), tmp_path / "foreign.step"
    Interface_Static.SetCVal_s("write.step.unit", name)
    writer = STEPControl_Writer()
    assert writer.Transfer(shape, STEPControl_AsIs) == writer.Write(str(path)) == IFSelect_RetDone
    again = read_step(path)
    assert kernel.volume(again) == pytest.approx(kernel.volume(shape), rel=1e-6)
    assert np.ptp(kernel.bounding_box(again), axis=0) == pytest.approx(np.ptp(kernel.bounding_box(shape), axis=0))
    points = " ".join(re.findall(r"CARTESIAN_POINT\('',\(([^,)]+,[^,)]+,[^,)]+)\)", path.read_text()))
    furthest = max(abs(float(number)) for number in re.findall(r"-?\d+\.\d*(?:E-?\d+)?", points))
    assert furthest * metres == pytest.approx(np.max(np.abs(kernel.bounding_box(shape))), rel=0.5)


@pytest.mark.parametrize("unit", list(Unit))
def test_a_mesh_in_any_unit_is_the_same_part(unit, folder, tmp_path):
    surface = read_surface(folder / "part.stl")
    numbers = surface.vertices / unit.metres
    trimesh.Trimesh(numbers, surface.triangles, process=False).export(tmp_path / "part.ply")
    convert(ConvertTask(tmp_path / "part.ply", tmp_path / "part.stl", unit=unit))
    again = read_surface(tmp_path / "part.stl")
    assert np.ptp(again.vertices, axis=0) == pytest.approx(np.ptp(surface.vertices, axis=0), rel=1e-5)
    for name, metres in (("back.ply", unit.metres), ("back.glb", 1.0)):
        convert(ConvertTask(folder / "part.stl", tmp_path / name, WriteOptions(unit=unit)))
        back = np.ptp(read_surface(tmp_path / name).vertices, axis=0)
        assert back * metres == pytest.approx(np.ptp(surface.vertices, axis=0), rel=1e-5)
    shown = look(ShowTask(tmp_path / "part.ply", unit))
    assert shown["volume"] == pytest.approx(surface.volume, rel=1e-4)
    np.save(tmp_path / "cloud.npy", numbers)
    for name in ("part.ply", "cloud.npy"):
        scan = read_scan(tmp_path / name, 256, unit=unit)
        assert scan.frame.scale == pytest.approx(surface.frame.scale, rel=1e-4)
        assert scan.frame.centre == pytest.approx(surface.frame.centre, abs=1e-4 * surface.frame.scale)


def test_what_has_a_unit_of_its_own_is_given_none(folder):
    for name in ("part.step", "part.json", "part.glb"):
        with pytest.raises(UserError, match="has a unit of its own"):
            check_unit(folder / name, Unit.MM)
    for name in ("part.step", "part.json", "part.glb", "part.png"):
        with pytest.raises(UserError, match="always in metres"):
            check_written_unit(folder / name, Unit.MM)
    assert check_unit(folder / "part.stl", None) is check_written_unit(folder / "part.stl", None) is Unit.M


def test_what_is_shown_of_a_file(folder, tmp_path):
    truth = kernel.build(FLANGE)
    for suffix in ("step", "stl", "ply", "obj", "glb"):
        facts = look(ShowTask(folder / f"part.{suffix}"))
        assert facts["volume"] == pytest.approx(kernel.volume(truth), rel=0.01)
        assert facts["area"] == pytest.approx(kernel.area(truth), rel=0.01)
        assert np.array([facts["low"], facts["high"]]) == pytest.approx(np.array(kernel.bounding_box(truth)), abs=1e-4)
    surface = read_surface(folder / "part.stl")
    torn = trimesh.Trimesh(surface.vertices, surface.triangles[1:], process=False)
    torn.export(tmp_path / "torn.stl")
    assert "volume" not in look(ShowTask(tmp_path / "torn.stl"))
    trimesh.Trimesh(surface.vertices, surface.triangles[:, ::-1], process=False).export(tmp_path / "turned.stl")
    assert look(ShowTask(tmp_path / "turned.stl"))["volume"] == pytest.approx(-surface.volume, rel=1e-3)
    np.savetxt(tmp_path / "cloud.xyz", surface.vertices)
    assert look(ShowTask(tmp_path / "cloud.xyz"))["points"] == len(surface.vertices)


def test_bodies_stand_side_by_side_in_step(tmp_path):
    """Not as an assembly of assemblies, of whose bodies build123d would count none."""
    posts = [extrude("top", circle(0.004), 0.01, draft.JOIN, at=(0.01 * i, 0.0, 0.0)) for i in range(5)]
    convert(ConvertTask(CadProgram(tuple(posts)), tmp_path / "posts.step"))
    assert (tmp_path / "posts.step").read_text().count("NEXT_ASSEMBLY_USAGE_OCCURRENCE(") == 5
    shape = read_step(tmp_path / "posts.step")
    assert kernel.num_solids(shape) == 5
    assert kernel.volume(shape) == pytest.approx(5 * math.pi * 0.002**2 * 0.01, rel=1e-6)


@pytest.mark.parametrize("suffix", ["tokens", "step", "stl", "obj", "glb", "png"])
def test_the_same_program_gives_the_same_bytes(folder, tmp_path, suffix):
    convert(ConvertTask(FLANGE, tmp_path / f"part.{suffix}"))
    first, second = (hashlib.sha256((at / f"part.{suffix}").read_bytes()).hexdigest() for at in (folder, tmp_path))
    assert first == second


def test_what_cannot_be_converted_is_told_before_any_work(folder):
    check_pair(folder / "part.step", folder / "x.glb")
    for source, target, message in (
        ("part.step", "x.json", "a program cannot be read off"),
        ("part.stl", "x.step", "triangles make no exact solid"),
        ("part.json", "x.dwg", "is needed"),
        ("none.json", "x.stl", "does not exist"),
        ("part.json", "nowhere/x.stl", "not a folder"),
    ):
        with pytest.raises(UserError, match=message):
            check_pair(folder / source, folder / target)


def damaged(folder):
    yield "header.tokens", b"NEW XY 1 2\n", "malformed_tokens"
    yield "unknown.tokens", b'{"bits": 8, "centre": [0, 0, 0], "scale": 1}\nNEW XY HELIX', "malformed_tokens"
    yield "huge.tokens", b'{"bits": 8, "centre": [0, 0, 0], "scale": 1e99}\nEND', "malformed_tokens"
    yield "beyond.tokens", b'{"bits": 8, "centre": [0, 0, 0], "scale": 1}\nNEW XY 999', "malformed_tokens"
    yield "short.tokens", b'{"bits": 8, "centre": [0, 0, 0], "scale": 1}\nNEW XY 100', "incomplete"
    yield "wrong.tokens", b'{"bits": 8, "centre": [0, 0, 0], "scale": 1}\nCUT XY 100', "ungrammatical"
    yield "part.json", b"{}", "malformed_model"
    yield "part.step", b"ISO-10303-21; nothing", "malformed_step"
    yield "part.stl", b"solid nothing", "malformed_mesh"
    yield "part.glb", b"glTF" + b"\xff" * 40, "malformed_mesh"
    yield "part.ply", b"ply\nformat ascii 1.0\nend_header\n", "malformed_mesh"
    facet = struct.pack("<12fH", *range(12), 0)
    yield "open.stl", b"\0" * 80 + struct.pack("<I", 1) + facet, "malformed_mesh|not_watertight"


def test_check_names_what_is_wrong(folder, tmp_path):
    for name, data, reason in damaged(folder):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RejectError, match=reason):
            check(CheckTask(tmp_path / name, 8, 0.01))
    facts = check(CheckTask(folder / "part.json", 8, 0.01))
    assert facts["tokens"] > 10
    assert facts["extrusions"] == len(FLANGE.extrudes)


def test_programs_are_described_in_millimetres():
    program = CadProgram(
        (
            extrude("top", [Profile(rounded(0.08, 0.04, 0.005), (circle(0.006, 0.03), circle(0.006, -0.03)))], 0.01),
            extrude("front", circle(0.02), symmetric(0.05), draft.CUT),
            extrude("top", rectangle(0.01, 0.01), -0.003, draft.JOIN, at=(0.0, 0.0, 0.01)),
        )
    )
    assert describe(program) == [
        (
            "1. new body: an 80 x 40 mm rectangle, rounded 5 mm "
            "with two holes (6 mm circle at (30, 0, 0) and (-30, 0, 0)) on the XY plane, 10 mm"
        ),
        "2. cut: a 20 mm circle on the ZX plane, facing -y, 50 mm to either side",
        "3. join: a 10 x 10 mm square on the XY plane at z = 10, 3 mm against the normal",
    ]
    assert sentence(program) == "Generate a CAD model made of a block and a rounded block with two holes, with one cut."


def test_positions_are_those_in_the_part():
    """A sketch elsewhere, turned and face down: words say where its profiles and their holes are."""
    faced = Plane((0.01, 0.02, 0.03), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))  # x is the part's y, y its x
    ring = Profile(circle(0.008, 0.004, 0.001), (circle(0.002, 0.004, 0.001),))
    plate = Profile(rectangle(0.02, 0.01), tuple(circle(0.001, x) for x in (-0.006, -0.003, 0.0, 0.003, 0.006)))
    tilted = Plane((0.0, 0.0, 0.005), (0.6, 0.0, 0.8), (-0.8, 0.0, 0.6))
    extent = Extent(ExtentKind.ONE_SIDED, 0.002)
    words = [
        describe_extrude(Extrude((Sketch(plane, (profile,)),), draft.CUT, extent))
        for plane, profile in ((faced, ring), (faced, plate), (tilted, Profile(circle(0.001, 0.01))))
    ]
    assert words == [
        "cut: an 8 mm circle at (11, 24, 30) with one hole (2 mm circle) on the XY plane at z = 30, facing down, 2 mm",
        (
            "cut: a 20 x 10 mm rectangle at (10, 20, 30) with "
            "five holes (1 mm circle at (10, 14, 30), (10, 17, 30), (10, 20, 30), (10, 23, 30) and 1 more) "
            "on the XY plane at z = 30, facing down, 2 mm"
        ),
        "cut: a 1 mm circle at (6, 0, 13) on an oblique plane with normal (-0.800, 0.000, 0.600), 2 mm",
    ]


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-7, 1e-6])
@pytest.mark.parametrize(("sides", "name"), [(3, "triangle"), (5, "pentagon"), (6, "hexagon"), (8, "octagon")])
def test_a_corner_on_an_edge_is_none(sides, name, off):
    """Wherever the loop begins, and up to a micrometre beside the edge of 20 mm."""
    points = [(0.02 * math.cos(turn), 0.02 * math.sin(turn)) for turn in np.arange(sides) * math.tau / sides + 0.1]
    for before in range(sides):
        (ax, ay), (bx, by) = points[before], points[(before + 1) % sides]
        with_it = [*points[: before + 1], (0.6 * ax + 0.4 * bx + off, 0.6 * ay + 0.4 * by), *points[before + 1 :]]
        for first in (0, before, before + 1):
            turned = with_it[first:] + with_it[:first]
            lines = tuple(Line(at, turned[(i + 1) % len(turned)]) for i, at in enumerate(turned))
            assert describe_loop(Loop(lines)).endswith(f" mm {name}")


def test_many_sides_are_counted():
    points = [(math.cos(i * math.tau / 1000), math.sin(i * math.tau / 1000)) for i in range(1000)]
    assert "1000-cornered" in describe_loop(Loop(tuple(Line(points[i - 1], at) for i, at in enumerate(points))))


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_every_family_closes(family):
    for number in range(3):
        shape = kernel.build(synthesis.make_part(5, number, (family,)).program)
        size = max(high - low for low, high in zip(*kernel.bounding_box(shape), strict=True))
        surface = watertight(kernel.tessellate(shape, 0.002 * size))
        assert surface.volume == pytest.approx(kernel.volume(shape), rel=0.02)


def test_a_face_that_is_missing_is_seen():
    mesh = kernel.tessellate(kernel.build(FLANGE), 1e-4)
    assert closed(mesh) is not None
    keep = mesh.faces != 1
    assert closed(dataclasses.replace(mesh, triangles=mesh.triangles[keep], faces=mesh.faces[keep])) is None


def box(size, at=(0.0, 0.0, 0.0)):
    shape = kernel.build(CadProgram((extrude("top", rectangle(size, size), size, at=at),)))
    return watertight(kernel.tessellate(shape, 0.01))


def test_iou_is_that_of_the_volumes():
    assert volumetric_iou(box(2.0), box(2.0)) == pytest.approx(1)
    assert volumetric_iou(box(2.0), box(2.0, at=(1.0, 0.0, 0.0))) == pytest.approx(1 / 3)
    assert volumetric_iou(box(1.0), box(1.0, at=(5.0, 0.0, 0.0))) == 0
    opened = box(1.0)
    with pytest.raises(RejectError, match="not_manifold"):
        volumetric_iou(opened, Surface(opened.vertices, opened.triangles[1:]))


def test_merging_drops_triangles_without_area():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1e-9, 0], [0, 1, 0]], float)
    surface = merge_vertices(vertices, np.array([[0, 1, 3], [1, 2, 3]]), 1e-7)
    assert len(surface.vertices) == 3
    assert surface.triangles.tolist() == [[0, 1, 2]]


def test_the_command_line_and_the_codec_have_one_default():
    assert DEFAULT_TOLERANCE == TOLERANCE == WriteOptions().tolerance


def test_omnicad_json_is_formatted_as_the_dataset_is(folder):
    text = (folder / "part.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1)
    assert documents.loads(text) == FLANGE
