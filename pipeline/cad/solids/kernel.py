"""Programs to boundary representations with Open CASCADE, and these to triangles.

Its booleans can hang or crash where Python cannot interrupt them: run it in ``sandbox`` for anything that is not your
own. Besides this module only ``step`` imports OCP.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from OCP.Bnd import Bnd_Box
from OCP.BRep import BRep_Builder, BRep_Tool
from OCP.BRepAlgoAPI import BRepAlgoAPI_Common, BRepAlgoAPI_Cut, BRepAlgoAPI_Fuse
from OCP.BRepBndLib import BRepBndLib
from OCP.BRepBuilderAPI import (
    BRepBuilderAPI_MakeEdge,
    BRepBuilderAPI_MakeFace,
    BRepBuilderAPI_MakeVertex,
    BRepBuilderAPI_MakeWire,
)
from OCP.BRepCheck import BRepCheck_Analyzer
from OCP.BRepGProp import BRepGProp
from OCP.BRepLib import BRepLib_ToolTriangulatedShape
from OCP.BRepMesh import BRepMesh_IncrementalMesh
from OCP.BRepPrimAPI import BRepPrimAPI_MakePrism
from OCP.BRepTools import BRepTools
from OCP.collections import List_TopoDS_Shape
from OCP.GC import GC_MakeArcOfCircle
from OCP.gp import gp_Ax2, gp_Ax3, gp_Circ, gp_Dir, gp_Pln, gp_Pnt, gp_Vec
from OCP.GProp import GProp_GProps
from OCP.Poly import Poly_Triangulation
from OCP.ShapeFix import ShapeFix_Face, ShapeFix_Shape
from OCP.TopAbs import TopAbs_COMPOUND, TopAbs_FACE, TopAbs_REVERSED, TopAbs_ShapeEnum, TopAbs_SOLID
from OCP.TopExp import TopExp_Explorer
from OCP.TopLoc import TopLoc_Location
from OCP.TopoDS import TopoDS, TopoDS_Compound, TopoDS_Face, TopoDS_Iterator, TopoDS_Shape, TopoDS_Wire

from pipeline.cad.language.program import Arc, CadProgram, Circle, Extrude, Loop, Operation, Plane, Profile, Vec3
from pipeline.cad.solids.mesh import Mesh, closed
from pipeline.runtime.errors import RejectError

ANGULAR_DEFLECTION = 0.2  # radians between neighbouring facets of a curved face


@dataclass(frozen=True, slots=True)
class _Part:
    """A shape with what the check of an operation's result needs: volume, and a box a little too large."""

    shape: TopoDS_Shape
    volume: float
    box: Bnd_Box

    @classmethod
    def of(cls, shape: TopoDS_Shape) -> "_Part":
        box = Bnd_Box()
        BRepBndLib.Add_s(shape, box, False)
        box.Enlarge(1e-6 * math.sqrt(box.SquareExtent()))
        return cls(shape, volume(shape), box)


def build(program: CadProgram) -> TopoDS_Shape:
    """The solid (or several) that the program describes.

    Raises:
        RejectError: ``kernel_failed``, ``invalid_solid`` or ``empty_solid``.
    """
    body: TopoDS_Shape | None = None
    try:
        for careful in (False, True):
            combined = _combined(program, careful)
            if combined is None or not TopExp_Explorer(combined.shape, TopAbs_SOLID).More():
                continue
            body = combined.shape
            if _is_sound(body):
                return body
            body = _healed(body)
            if _is_sound(body):
                return body
    except RuntimeError as error:  # OCP's exceptions derive from it
        raise RejectError("kernel_failed", f"{type(error).__name__}: {error}") from error
    if body is None or volume(body) <= 0:
        raise RejectError("empty_solid", "the operations leave nothing")
    raise RejectError("invalid_solid", "BRepCheck finds faults that ShapeFix cannot heal")


def is_valid(shape: TopoDS_Shape) -> bool:
    """Whether BRepCheck finds no fault."""
    return bool(BRepCheck_Analyzer(shape).IsValid())


def _is_sound(shape: TopoDS_Shape) -> bool:
    return is_valid(shape) and volume(shape) > 0


def _healed(shape: TopoDS_Shape) -> TopoDS_Shape:
    fix = ShapeFix_Shape(shape)
    fix.Perform()
    return fix.Shape()


def _combined(program: CadProgram, careful: bool) -> _Part | None:
    """All extrusions in order. ``careful`` looks for faults after every operation."""
    body: _Part | None = None
    pending: list[_Part] = []  # additions wait: fused in pairs they cost half of one after the other

    def settle() -> None:
        nonlocal body
        if pending:
            body = _fused([*([body] if body else []), *pending], careful)
            pending.clear()

    for extrude in program.extrudes:
        tools = [_Part.of(prism) for prism in prisms(extrude)]
        if extrude.operation in (Operation.NEW, Operation.JOIN):
            pending += tools
            continue
        settle()
        assert body is not None, "programs begin with a new body"
        if extrude.operation is Operation.CUT:
            for tool in tools if careful else [_together(tools)]:
                body = _boolean(Operation.CUT, body, tool, careful)
        else:
            body = _boolean(Operation.INTERSECT, body, _fused(tools, careful), careful)
    settle()
    return body


def prisms(extrude: Extrude) -> list[TopoDS_Shape]:
    """One prism for each profile of an extrusion."""
    low, high = extrude.extent.interval
    made = []
    for sketch in extrude.sketches:
        n = sketch.plane.normal
        vector = gp_Vec(n[0] * (high - low), n[1] * (high - low), n[2] * (high - low))
        for profile in sketch.profiles:
            prism = BRepPrimAPI_MakePrism(_face(profile, sketch.plane, low), vector)
            made.append(prism.Shape())
    return made


def _point(plane: Plane, at: tuple[float, float], height: float) -> gp_Pnt:
    return gp_Pnt(*plane.to_world(at, height))


def _face(profile: Profile, plane: Plane, height: float) -> TopoDS_Face:
    origin, x, z = _point(plane, (0.0, 0.0), height), gp_Dir(*plane.x_axis), gp_Dir(*plane.normal)
    maker = BRepBuilderAPI_MakeFace(gp_Pln(gp_Ax3(origin, z, x)), _wire(profile.outer, plane, height), True)
    if not maker.IsDone():
        raise RejectError("kernel_failed", f"no face from a profile ({maker.Error().name})")
    for hole in profile.holes:
        maker.Add(TopoDS.Wire(_wire(hole, plane, height).Reversed()))
    fix = ShapeFix_Face(maker.Face())
    fix.FixOrientation()
    fix.Perform()
    return fix.Face()


def _wire(loop: Loop, plane: Plane, height: float) -> TopoDS_Wire:
    maker = BRepBuilderAPI_MakeWire()
    first = loop.curves[0]
    if isinstance(first, Circle):
        axis = gp_Ax2(_point(plane, first.centre, height), gp_Dir(*plane.normal), gp_Dir(*plane.x_axis))
        maker.Add(BRepBuilderAPI_MakeEdge(gp_Circ(axis, first.radius)).Edge())
        return maker.Wire()
    edges = loop.edges if loop.signed_area > 0 else loop.reversed().edges
    corners = [_point(plane, edge.start, height) for edge in edges]
    # Neighbours share a vertex: end points that differ by float noise still make one wire.
    vertices = [BRepBuilderAPI_MakeVertex(corner).Vertex() for corner in corners]
    for i, edge in enumerate(edges):
        j = (i + 1) % len(edges)
        if corners[i].Distance(corners[j]) < 1e-9:
            continue
        if isinstance(edge, Arc):
            arc = GC_MakeArcOfCircle(corners[i], _point(plane, edge.at(0.5), height), corners[j])
            if not arc.IsDone():
                raise RejectError("kernel_failed", f"no arc ({arc.Status().name})")
            made = BRepBuilderAPI_MakeEdge(arc.Value(), vertices[i], vertices[j])
        else:
            made = BRepBuilderAPI_MakeEdge(vertices[i], vertices[j])
        if not made.IsDone():
            raise RejectError("kernel_failed", f"no edge ({made.Error().name})")
        maker.Add(made.Edge())
        if not maker.IsDone():
            raise RejectError("kernel_failed", f"no wire ({maker.Error().name})")
    return maker.Wire()


BOOLEANS = {
    Operation.JOIN: BRepAlgoAPI_Fuse,
    Operation.CUT: BRepAlgoAPI_Cut,
    Operation.INTERSECT: BRepAlgoAPI_Common,
}
# Faces this close are one, as a share of the size: tried in turn where a result cannot be right.
FUZZY = (0.0, 1e-6, 1e-5, 1e-4)
VOLUME_NOISE = 1e-4  # relative


def _fused(parts: list[_Part], careful: bool) -> _Part:
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [_boolean(Operation.JOIN, p[0], p[1], careful) if len(p) == 2 else p[0] for p in pairs]
    return parts[0]


def _together(parts: list[_Part]) -> _Part:
    """Shapes as one compound."""
    if len(parts) == 1:
        return parts[0]
    made, builder, box = TopoDS_Compound(), BRep_Builder(), Bnd_Box()
    builder.MakeCompound(made)
    for part in parts:
        builder.Add(made, part.shape)
        box.Add(part.box)
    return _Part(made, sum(part.volume for part in parts), box)


def _boolean(operation: Operation, body: _Part, tool: _Part, careful: bool) -> _Part:
    """One operation, repeated with more tolerance where it fails or its volume is impossible."""
    if body.box.IsOut(tool.box):
        if operation is Operation.JOIN:
            return _together([body, tool])
        if operation is Operation.CUT:
            return body
    noise = VOLUME_NOISE * (body.volume + tool.volume)
    low, high = {
        Operation.JOIN: (max(body.volume, tool.volume), body.volume + tool.volume),
        # Profiles of one extrusion may overlap, then the tool counts them twice.
        Operation.CUT: (body.volume - tool.volume, body.volume),
        Operation.INTERSECT: (0.0, min(body.volume, tool.volume)),
    }[operation]
    size = math.sqrt(body.box.SquareExtent())
    result: _Part | None = None
    for fuzzy in FUZZY:
        made = BOOLEANS[operation]()
        made.SetArguments(_listed([body.shape]))
        made.SetTools(_listed(_parts(tool.shape)))
        made.SetFuzzyValue(fuzzy * size)
        made.SetRunParallel(False)
        made.Build()
        if not made.IsDone():
            continue
        result = _Part.of(made.Shape())
        if low - noise <= result.volume <= high + noise and not (careful and not is_valid(result.shape)):
            return result
    if result is None:
        raise RejectError("kernel_failed", "a boolean operation failed")
    return result


def _parts(shape: TopoDS_Shape) -> list[TopoDS_Shape]:
    """What a compound is made of: as tools of one operation its parts may overlap."""
    if shape.ShapeType() != TopAbs_COMPOUND:
        return [shape]
    parts, iterator = [], TopoDS_Iterator(shape)
    while iterator.More():
        parts.append(iterator.Value())
        iterator.Next()
    return parts


def _listed(shapes: list[TopoDS_Shape]) -> List_TopoDS_Shape:
    listed = List_TopoDS_Shape()
    for shape in shapes:
        listed.Append(shape)
    return listed


def volume(shape: TopoDS_Shape) -> float:
    """Volume in cubed units."""
    properties = GProp_GProps()
    BRepGProp.VolumeProperties_s(shape, properties)
    return float(properties.Mass())


def area(shape: TopoDS_Shape) -> float:
    """Surface area in squared units."""
    properties = GProp_GProps()
    BRepGProp.SurfaceProperties_s(shape, properties)
    return float(properties.Mass())


def num_solids(shape: TopoDS_Shape) -> int:
    """Bodies that touch nowhere."""
    return _number_of(TopAbs_SOLID, shape)


def num_faces(shape: TopoDS_Shape) -> int:
    """Faces, plane or curved."""
    return _number_of(TopAbs_FACE, shape)


def _number_of(kind: TopAbs_ShapeEnum, shape: TopoDS_Shape) -> int:
    count, explorer = 0, TopExp_Explorer(shape, kind)
    while explorer.More():
        count += 1
        explorer.Next()
    return count


def bounding_box(shape: TopoDS_Shape) -> tuple[Vec3, Vec3]:
    """Lowest and highest corner of the exact axis-aligned box."""
    box = Bnd_Box()
    box.SetGap(0.0)
    BRepBndLib.AddOptimal_s(shape, box, False, False)
    low, high = box.CornerMin(), box.CornerMax()
    return (low.X(), low.Y(), low.Z()), (high.X(), high.Y(), high.Z())


def tessellate(shape: TopoDS_Shape, deflection: float) -> Mesh:
    """Triangles at most ``deflection`` (in the solid's unit) away from the surface.

    Finer where the mesher leaves a face out, which it does without a word where chords of a thin wall's two sides
    cross. A surface that does not close even so is given as it is.

    Raises:
        RejectError: ``kernel_failed``.
    """
    for finer in (1, 2, 4):
        BRepTools.Clean_s(shape)
        BRepMesh_IncrementalMesh(shape, deflection / finer, False, ANGULAR_DEFLECTION / finer, False)
        mesh = _mesh(shape)
        if closed(mesh) is not None:
            break
    return mesh


def _mesh(shape: TopoDS_Shape) -> Mesh:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    explorer = TopExp_Explorer(shape, TopAbs_FACE)
    while explorer.More():
        face = TopoDS.Face(explorer.Current())
        location = TopLoc_Location()
        triangulation = BRep_Tool.Triangulation_s(face, location)
        if triangulation is not None:
            parts.append(_triangles(face, triangulation, location))
        explorer.Next()
    if not parts:
        raise RejectError("kernel_failed", "the solid has no triangles")
    starts = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
    return Mesh(
        np.concatenate([vertices for vertices, _, _ in parts]),
        np.concatenate([normals for _, normals, _ in parts]),
        np.concatenate([triangles + start for (_, _, triangles), start in zip(parts, starts, strict=False)]),
        np.concatenate([np.full(len(triangles), i) for i, (_, _, triangles) in enumerate(parts)]),
    )


def _triangles(
    face: TopoDS_Face, triangulation: Poly_Triangulation, location: TopLoc_Location
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    BRepLib_ToolTriangulatedShape.ComputeNormals_s(face, triangulation)
    transform = location.Transformation()

    def xyz(item: Any) -> tuple[float, float, float]:
        moved = item.Transformed(transform)
        return (moved.X(), moved.Y(), moved.Z())

    nodes = range(1, triangulation.NbNodes() + 1)
    vertices = np.array([xyz(triangulation.Node(i)) for i in nodes])
    normals = np.array([xyz(triangulation.Normal(i)) for i in nodes])
    triangles = np.array([triangulation.Triangle(i).Get() for i in range(1, triangulation.NbTriangles() + 1)]) - 1
    if face.Orientation() == TopAbs_REVERSED:
        return vertices, -normals, triangles[:, ::-1]
    return vertices, normals, triangles
