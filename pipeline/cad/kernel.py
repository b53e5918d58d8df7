"""Programs to boundary representations with Open CASCADE, and solids to STEP, STL and triangles.

The only module that imports OCP. Its booleans can hang or crash where Python cannot interrupt them: run it
in ``sandbox`` for anything that is not your own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from OCP.Bnd import Bnd_Box
from OCP.BRep import BRep_Tool
from OCP.BRepAlgoAPI import BRepAlgoAPI_BooleanOperation, BRepAlgoAPI_Common, BRepAlgoAPI_Cut, BRepAlgoAPI_Fuse
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
from OCP.IFSelect import IFSelect_RetDone
from OCP.Interface import Interface_Static
from OCP.Message import Message
from OCP.Poly import Poly_Triangulation
from OCP.ShapeFix import ShapeFix_Face, ShapeFix_Shape
from OCP.STEPControl import STEPControl_AsIs, STEPControl_Writer
from OCP.StlAPI import StlAPI_Writer
from OCP.TopAbs import TopAbs_FACE, TopAbs_REVERSED, TopAbs_SOLID
from OCP.TopExp import TopExp_Explorer
from OCP.TopLoc import TopLoc_Location
from OCP.TopoDS import TopoDS, TopoDS_Face, TopoDS_Shape, TopoDS_Vertex, TopoDS_Wire

from pipeline.cad.program import Arc, CadProgram, Circle, Extrude, Loop, Operation, Plane, Profile, Vec3
from pipeline.errors import RejectError

ANGULAR_DEFLECTION = 0.2  # radians between neighbouring facets of a curved face


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles of a solid's surface.

    Attributes:
        vertices: (V, 3) float64.
        normals: (V, 3) float64, the surface's own normals, outward. Vertices are not shared between faces.
        triangles: (T, 3) int64, counter-clockwise from outside.
        faces: (T,) int64, the B-rep face of each triangle.
    """

    vertices: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    faces: np.ndarray


def build(program: CadProgram) -> TopoDS_Shape:
    """The solid (or several) that the program describes.

    Raises:
        RejectError: ``kernel_failed``, ``invalid_solid`` or ``empty_solid``.
    """
    body: TopoDS_Shape | None = None
    pending: list[TopoDS_Shape] = []  # additions wait so that they are fused in one operation

    def settle() -> None:
        nonlocal body
        if pending:
            body = _boolean(BRepAlgoAPI_Fuse(), [body] if body else pending[:1], pending if body else pending[1:])
            pending.clear()

    try:
        for extrude in program.extrudes:
            tools = prisms(extrude)
            if extrude.operation in (Operation.NEW, Operation.JOIN):
                pending += tools
                continue
            settle()
            if extrude.operation is Operation.CUT:
                body = _boolean(BRepAlgoAPI_Cut(), [body], tools)
            else:
                union = _boolean(BRepAlgoAPI_Fuse(), tools[:1], tools[1:])
                body = _boolean(BRepAlgoAPI_Common(), [body], [union])
        settle()
    except RuntimeError as error:  # OCP's exceptions derive from it
        raise RejectError("kernel_failed", f"{type(error).__name__}: {error}") from error
    return _checked(body)


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
    vertices = [_vertex(corner) for corner in corners]
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


def _vertex(point: gp_Pnt) -> TopoDS_Vertex:
    return BRepBuilderAPI_MakeVertex(point).Vertex()


def _boolean(
    operation: BRepAlgoAPI_BooleanOperation, objects: list[TopoDS_Shape], tools: list[TopoDS_Shape]
) -> TopoDS_Shape:
    if not tools:
        return objects[0]
    operation.SetArguments(_shapes(objects))
    operation.SetTools(_shapes(tools))
    operation.SetRunParallel(False)
    operation.Build()
    if not operation.IsDone():
        raise RejectError("kernel_failed", "a boolean operation failed")
    return operation.Shape()


def _shapes(shapes: list[TopoDS_Shape]) -> List_TopoDS_Shape:
    collected = List_TopoDS_Shape()
    for shape in shapes:
        collected.Append(shape)
    return collected


def _checked(shape: TopoDS_Shape | None) -> TopoDS_Shape:
    if shape is None or not TopExp_Explorer(shape, TopAbs_SOLID).More():
        raise RejectError("empty_solid", "the operations leave nothing")
    if not BRepCheck_Analyzer(shape).IsValid():
        fix = ShapeFix_Shape(shape)
        fix.Perform()
        shape = fix.Shape()
        if not BRepCheck_Analyzer(shape).IsValid():
            raise RejectError("invalid_solid", "BRepCheck finds faults that ShapeFix cannot heal")
    if volume(shape) <= 0:
        raise RejectError("empty_solid", "the volume is not positive")
    return shape


def volume(shape: TopoDS_Shape) -> float:
    """Volume in cubed units."""
    properties = GProp_GProps()
    BRepGProp.VolumeProperties_s(shape, properties)
    return float(properties.Mass())


def bounding_box(shape: TopoDS_Shape) -> tuple[Vec3, Vec3]:
    """Lowest and highest corner of the exact axis-aligned box."""
    box = Bnd_Box()
    box.SetGap(0.0)
    BRepBndLib.AddOptimal_s(shape, box, False, False)
    low, high = box.CornerMin(), box.CornerMax()
    return (low.X(), low.Y(), low.Z()), (high.X(), high.Y(), high.Z())


def tessellate(shape: TopoDS_Shape, deflection: float) -> Mesh:
    """Triangles at most ``deflection`` (in the solid's unit) away from the surface."""
    BRepTools.Clean_s(shape)
    BRepMesh_IncrementalMesh(shape, deflection, False, ANGULAR_DEFLECTION, False)
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


def write_step(shape: TopoDS_Shape, path: Path) -> None:
    """Write STEP AP214, millimetres, from a shape in metres."""
    Message.DefaultMessenger_s().ChangePrinters().Clear()  # it would tell each step of the writing
    Interface_Static.SetCVal_s("write.step.schema", "AP214IS")
    Interface_Static.SetCVal_s("xstep.cascade.unit", "M")
    Interface_Static.SetCVal_s("write.step.unit", "MM")
    writer = STEPControl_Writer()
    if writer.Transfer(shape, STEPControl_AsIs) != IFSelect_RetDone or writer.Write(str(path)) != IFSelect_RetDone:
        raise RejectError("kernel_failed", f"cannot write {path}")


def write_stl(shape: TopoDS_Shape, path: Path, deflection: float) -> None:
    """Write binary STL."""
    BRepMesh_IncrementalMesh(shape, deflection, False, ANGULAR_DEFLECTION, False)
    writer = StlAPI_Writer()
    writer.ASCIIMode = False
    if not writer.Write(shape, str(path)):
        raise RejectError("kernel_failed", f"cannot write {path}")
