"""STEP files with Open CASCADE: the same bytes for the same shape, and no word on the console."""

from collections.abc import Iterator
from pathlib import Path

from OCP.APIHeaderSection import APIHeaderSection_MakeHeader
from OCP.BRep import BRep_Builder
from OCP.IFSelect import IFSelect_RetDone
from OCP.Interface import Interface_Static
from OCP.Message import Message
from OCP.StepBasic import StepBasic_Product
from OCP.STEPControl import STEPControl_AsIs, STEPControl_Controller, STEPControl_Reader, STEPControl_Writer
from OCP.TCollection import TCollection_HAsciiString
from OCP.TopAbs import TopAbs_COMPOUND
from OCP.TopoDS import TopoDS_Compound, TopoDS_Iterator, TopoDS_Shape

from pipeline.cad.exchange.formats import StepSchema
from pipeline.runtime.errors import RejectError


def write_step(shape: TopoDS_Shape, path: Path, name: str, schema: StepSchema = StepSchema.AP214) -> None:
    """Write STEP in millimetres from a shape in metres: the same bytes for the same shape.

    Args:
        name: of the product.

    Raises:
        RejectError: ``kernel_failed``.
    """
    _step_settings()
    Interface_Static.SetCVal_s("write.step.schema", schema.value)
    Interface_Static.SetCVal_s("write.step.unit", "MM")
    writer = STEPControl_Writer()
    if writer.Transfer(_flat(shape), STEPControl_AsIs) != IFSelect_RetDone:
        raise RejectError("kernel_failed", f"cannot write {path}")
    model, title = writer.Model(), TCollection_HAsciiString(name)
    for number in range(1, model.NbEntities() + 1):
        if isinstance(entity := model.Value(number), StepBasic_Product):
            entity.SetId(title)  # the translator would count its files here
            entity.SetName(title)
    header = APIHeaderSection_MakeHeader(model)
    header.SetName(title)
    header.SetTimeStamp(TCollection_HAsciiString("1970-01-01T00:00:00"))
    header.Apply(model)
    if writer.Write(str(path)) != IFSelect_RetDone:
        raise RejectError("kernel_failed", f"cannot write {path}")


def _flat(shape: TopoDS_Shape) -> TopoDS_Shape:
    """The shape with its compounds' compounds undone; a body by itself is in none.

    Booleans leave compounds in compounds, which STEP would hold as assemblies: build123d counts the solids of a
    compound itself alone, and would see a volume of 0.
    """
    if shape.ShapeType() != TopAbs_COMPOUND:
        return shape
    bodies = list(_bodies(shape))
    if len(bodies) == 1:
        return bodies[0]
    made, builder = TopoDS_Compound(), BRep_Builder()
    builder.MakeCompound(made)
    for body in bodies:
        builder.Add(made, body)
    return made


def _bodies(shape: TopoDS_Shape) -> Iterator[TopoDS_Shape]:
    if shape.ShapeType() != TopAbs_COMPOUND:
        yield shape
        return
    iterator = TopoDS_Iterator(shape)
    while iterator.More():
        yield from _bodies(iterator.Value())
        iterator.Next()


def read_step(path: Path) -> TopoDS_Shape:
    """The shape in a STEP file, in metres.

    Raises:
        RejectError: ``malformed_step``.
    """
    _step_settings()
    reader = STEPControl_Reader()
    if reader.ReadFile(str(path)) != IFSelect_RetDone or reader.TransferRoots() == 0:
        raise RejectError("malformed_step", f"{path} holds no shape")
    return reader.OneShape()


def _step_settings() -> None:
    Message.DefaultMessenger_s().ChangePrinters().Clear()  # it would tell each step of the work
    STEPControl_Controller.Init_s()  # until then a setting is not heard: the first file would be in metres
    Interface_Static.SetCVal_s("xstep.cascade.unit", "M")
