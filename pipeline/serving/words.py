"""What the service is asked and answers: the bodies of requests and responses. Lengths are millimetres."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.cad.exchange.formats import Library, Unit
from pipeline.cad.language.program import CadProgram
from pipeline.cad.parts.describe import describe_extrude
from pipeline.serving.editing import groups

Document = Annotated[dict[str, Any], Field(description="A program as an Omni-CAD document; its lengths are metres.")]
UploadId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="What `POST /v1/uploads` gave for a file.")]
Format = Literal["step", "stl", "ply", "obj", "glb", "png", "json", "tokens", "py"]


class Body(BaseModel):
    """A request's body: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Prompt(Body):
    """What a part is written from."""

    caption: str = Field(default="", max_length=10_000, description="What to build, in words.")
    scan: UploadId | None = Field(default=None, description="A cloud, a mesh or a solid that it looks like.")
    images: list[UploadId] = Field(default=[], max_length=8, description="Pictures, in the order of the views.")
    start: Document | None = Field(default=None, description="A program to go on from.")
    steps: int | None = Field(default=None, ge=1, description="Take only so many extrusions of `start`.")
    candidates: int = Field(default=1, ge=1, description="Write so many; the best is first.")
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=5,
        description="0 is greedy. Left out: the first candidate greedy, the others sampled at 0.7.",
    )
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    max_tokens: int = Field(default=512, ge=16, le=1024, description="Length limit of a program.")
    size_mm: float = Field(
        default=100.0, ge=0.001, le=1e5, description="Longest side, where no scan and no start gives it."
    )


class Completion(Prompt):
    """A program that is gone on from."""

    start: Document


class SearchPrompt(Prompt):
    """A part that is then changed until it explains the scan, or without one the pictures."""

    seconds: float = Field(default=10.0, gt=0, description="So long at most.")
    builds: int | None = Field(
        default=None, ge=1, description="So many programs at most: the same result on any machine."
    )


class Change(Body):
    """One number set, or one step deleted."""

    parameter: str | None = Field(default=None, max_length=100, description="Key of a step's parameter.")
    value: float | None = Field(default=None, description="Its new value, in millimetres.")
    delete: int | None = Field(default=None, ge=1, description="The step that is deleted, counted from 1.")


class BuildRequest(Body):
    """A program to be built, after a change or as it is."""

    program: Document
    change: Change | None = None
    scan: UploadId | None = Field(default=None, description="What it is compared with.")


class ConvertRequest(Body):
    """A program, or a file that was sent, to be written as another."""

    program: Document | None = None
    upload: UploadId | None = None
    format: Format
    library: Library = Field(default=Library.CADQUERY, description="What a `py` is written for.")
    unit: Unit = Field(default=Unit.M, description="Of stl, ply and obj; other formats have a unit of their own.")
    name: str = Field(default="part", pattern="^[A-Za-z0-9_ -]{1,60}$", description="Of the file, without suffix.")


class ParameterView(BaseModel):
    """A number of a step."""

    key: str
    label: str
    value: float


class GroupView(BaseModel):
    """Numbers that belong together."""

    label: str
    parameters: list[ParameterView]


class StepView(BaseModel):
    """One extrusion in words, and its numbers."""

    text: str
    operation: str
    groups: list[GroupView]

    @classmethod
    def of(cls, program: CadProgram, number: int) -> "StepView":
        """A step of a program, counted from 0."""
        extrude = program.extrudes[number]
        found = [
            GroupView(
                label=group.label,
                parameters=[
                    ParameterView(key=each.key, label=each.label, value=round(each.value * 1000, 6))
                    for each in group.parameters
                ],
            )
            for group in groups(extrude, number)
        ]
        return cls(text=describe_extrude(extrude), operation=extrude.operation, groups=found)


class Mesh(BaseModel):
    """A surface: int16 positions in steps of 1/8192 of the frame, and uint16 indices, little-endian, in base64."""

    positions: str
    indices: str


class FrameView(BaseModel):
    """Where the normalised frame lies: its centre and half its length, in metres."""

    centre: tuple[float, float, float]
    scale: float


class SolidView(BaseModel):
    """A solid: its measures, and its surface for a viewer."""

    size: tuple[float, float, float]
    volume: float = Field(description="Cubic millimetres.")
    area: float = Field(description="Square millimetres.")
    bodies: int = Field(description="Solids that touch nowhere.")
    frame: FrameView
    mesh: Mesh | None = Field(description="None where it has too many faces.")
    errors: str | None = Field(
        default=None, description="Of each point of the scan's preview its distance, as positions are."
    )
    misfit: float | None = Field(default=None, description="To the scan, as a share of its longest half-side.")
    difference: float | None = Field(
        default=None, description="From the pictures, where there is no scan: of their grey values, 0 to 1."
    )


class Part(BaseModel):
    """A program and what it builds."""

    program: Document
    steps: list[StepView]
    solid: SolidView | None
    failure: str | None = Field(description="Why it makes no solid, where it does not.")
    tokens: int | None = None
    log_likelihood: float | None = None


class Parts(BaseModel):
    """Candidates, the best first, and what a user should know of them."""

    parts: list[Part]
    notes: list[str] = []


class UploadView(BaseModel):
    """A file that was read, kept for a while."""

    id: str
    name: str
    kind: Literal["program", "scan", "picture"]
    points: str | None = Field(default=None, description="Some of a scan's points, as positions of a mesh are.")
    frame: FrameView | None = None
    size: tuple[float, float, float] | None = Field(default=None, description="Of a scan, in millimetres.")
    part: Part | None = Field(default=None, description="What a program builds.")


class Example(BaseModel):
    """Something to begin with."""

    title: str
    caption: str
    upload: UploadView | None = None


class Event(BaseModel):
    """One line of a search's answer."""

    event: Literal["waiting", "started", "found", "done", "failed"]
    fit: float | None = Field(default=None, description="How well the scan, or the pictures, are explained; 1 is most.")
    judged: int | None = Field(default=None, description="Programs judged until then.")
    part: Part | None = None
    notes: list[str] = []
    detail: str | None = None


class Health(BaseModel):
    """Whether the service is well, and what it can do."""

    status: Literal["ok", "loading", "failed"] = Field(description="Of the model; programs are edited at once.")
    detail: str | None = Field(default=None, description="Why the model could not be loaded.")
    version: str
    checkpoint: str
    combinations: list[str]
    views: int = Field(description="Pictures that it takes at most.")
    waiting: int = Field(description="Programs that wait to be written.")
    kernel_waiting: int = Field(description="Pieces of work that wait for the CAD kernel.")
    limits: dict[str, float]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
