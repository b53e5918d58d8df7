"""Scripts as people write them for CadQuery, and what it makes of them; ``test_cadquery`` reads them."""

SCRIPTS = {
    "plate with a bore and bolts": """
import cadquery as cq

# the first example of CadQuery's documentation
height, width, thickness, diameter, padding = 60.0, 80.0, 10.0, 22.0, 12.0
result = (
    cq.Workplane("XY")
    .box(height, width, thickness)
    .faces(">Z")
    .workplane()
    .hole(diameter)
    .faces(">Z")
    .workplane()
    .rect(height - padding, width - padding, forConstruction=True)
    .vertices()
    .cboreHole(2.4, 4.4, 2.1)
    .edges("|Z")
    .fillet(2.0)
)
show_object(result)
""",
    "points, arrays and slots": """
import math
import cadquery

points = [(math.cos(math.radians(a)) * 30, math.sin(math.radians(a)) * 30) for a in range(0, 360, 60)]
disc = cadquery.Workplane("XY").circle(40).extrude(5)
disc = disc.faces("<Z").workplane().pushPoints(points).hole(4)
disc = disc.faces(">Z").workplane(offset=1).rarray(12, 8, 2, 2).rect(3, 2).extrude(-3)
disc = disc.faces(">Z").workplane().polarArray(20, 15, 360, 5).slot2D(8, 3).cutThruAll()
disc = (
    disc.faces(">Z").workplane()
    .polarArray(36, 0, 90, 3, rotate=False).polygon(6, 3, circumscribed=True).cutBlind(-2)
)
cadquery.exporters.export(disc, "disc.step")
""",
    "a bracket of two boxes": """
import cadquery as cq
base = cq.Workplane().box(60, 40, 8, centered=(True, True, False))
wall = cq.Workplane("XY", origin=(0, 16, 8)).box(60, 8, 30, centered=(True, True, False))
part = base.union(wall, clean=True)
part = part.faces("<Y").workplane().pushPoints([(-20, 4), (20, 4)]).circle(2).cutThruAll()
part = part.faces(">Y").workplane(invert=True).center(10, 25).circle(5).cutBlind(8)
part = part.cut(cq.Workplane("XZ").moveTo(0, 24).circle(6).extrude(-50))
""",
    "lines": """
import cadquery as cq
from math import sqrt
outline = (
    cq.Workplane("front")
    .hLine(20).vLine(10).line(-5, 5).hLineTo(5).vLineTo(12)
    .polarLine(2 * sqrt(2), 225)
    .lineTo(0, 10).close()
)
part = outline.extrude(4, both=True).faces(">Z").workplane(origin=(10, 7, 0)).cylinder(20, 3)
""",
    "arcs": """
import cadquery as cq
part = (
    cq.Workplane("YZ").moveTo(0, -10).lineTo(20, -10).threePointArc((30, 0), (20, 10))
    .sagittaArc((10, 12), 2).radiusArc((0, 10), -20).tangentArcPoint((-8, -10), relative=True).close().extrude(6)
)
""",
    "mirrored halves": """
import cadquery as cq
half = cq.Workplane("XY").lineTo(20, 0).lineTo(20, 5).lineTo(10, 12).lineTo(0, 12).mirrorY().extrude(5)
lens = cq.Workplane("XY").workplane(offset=5).moveTo(-8, 0).threePointArc((0, 4), (8, 0)).mirrorX().extrude(3)
part = half.union(lens.translate((0, 6, 0)))
""",
    "moved, turned and mirrored": """
import cadquery as cq
arm = cq.Workplane("XY").polyline([(0, 0), (30, 0), (30, 6), (12, 6), (0, 14)]).close().extrude(8)
arm = arm.rotate((5, 0, 0), (5, 1, 0), 30).translate((2, 3, 4))
arm = arm.mirror("YZ", (-1, 0, 0), union=True)
part = arm + cq.Workplane("XZ", origin=(-1, 20, 0)).circle(9).circle(4).extrude(20)
""",
    "several profiles": """
import cadquery as cq
part = (
    cq.Workplane("XY")
    .rect(60, 40).pushPoints([(-15, 0), (15, 0)]).circle(8).moveTo(50, 0).rect(8, 8).circle(3)
    .extrude(10)
)
part = part.intersect(cq.Workplane("XY").rect(200, 30).extrude(8))
""",
    "a turned plane": """
import cadquery as cq
part = (
    cq.Workplane("XY").box(40, 40, 20)
    .faces(">Z").workplane().transformed(offset=(0, 0, -6), rotate=(20, 30, 45)).circle(6).extrude(40, combine="cut")
)
""",
    "boxes and cylinders at points": """
import cadquery as cq
top = cq.Workplane("XY").box(80, 30, 4).faces(">Z").workplane()
part = top.rarray(20, 1, 4, 1).cylinder(10, 4, centered=(True, True, False))
part = part.faces("<Z").workplane().pushPoints([(-30, 0), (30, 0)]).box(6, 6, 6, centered=(True, True, False))
part = part - cq.Workplane("left").workplane(offset=-50).box(3, 100, 100)
""",
    "raised on its middle": """
import cadquery as cq
part = cq.Workplane("XY").circle(10).extrude(6).workplane(offset=2).rect(5, 30).extrude(4)
for y in (-12, 12):
    part = part.cut(cq.Workplane("YZ").moveTo(y, 6).circle(1.5).extrude(50, both=True))
""",
    "a part with a hole joined to one with a hole": """
import cadquery as cq
a = cq.Workplane("XY").box(20, 20, 10).faces(">Z").workplane().hole(6)
b = cq.Workplane("XY").center(40, 0).box(20, 20, 10).faces(">Z").workplane().hole(8, 4)
part = a.union(b).union(cq.Workplane("XY").box(60, 4, 2).translate((20, 0, 4)))
""",
    "a step whose top was cut off elsewhere": """
import cadquery as cq
part = cq.Workplane("XY").box(40, 20, 20, centered=False)
part = part.cut(cq.Workplane("XY", origin=(0, 0, 12)).box(25, 20, 8, centered=False))
part = part.faces(">Z").workplane(origin=(32, 10, 0)).hole(5, depth=15)
part = part.faces("<X").workplane(origin=(0, 10, 6)).polygon(5, 6).cutThruAll()
""",
    "rounded, cut off and offset": """
import cadquery as cq
frame = cq.Workplane("XY").rect(60, 40).rect(40, 20).extrude(5).edges("|Z").fillet(4)
key = cq.Workplane("XZ").polygon(6, 20).extrude(12).edges("|Y").chamfer(length=2).translate((0, -20, 12))
lid = cq.Workplane("XY", origin=(0, 0, 5)).rect(50, 30).rect(10, 8).offset2D(3).extrude(2)
rim = cq.Workplane("XY", origin=(0, 0, 7)).polyline([(-20, -10), (20, -10), (10, 12)]).close().offset2D(-2).extrude(2)
sharp = cq.Workplane("XY", origin=(0, 0, 9)).polygon(3, 8).offset2D(1, kind="intersection").extrude(1)
part = frame.union(lid).union(rim).union(sharp).union(key)
""",
}
# What CadQuery 2.8.0 makes of them: volume, and centre of mass.
MEASURED = {
    "plate with a bore and bolts": (43893.657, (0, 0, -0.008074)),
    "points, arrays and slots": (24204.6528, (-0.01979, -0.01979, 2.501043)),
    "a bracket of two boxes": (31689.9117, (0, 6.813637, 12.062642)),
    "lines": (2455.29201, (10.234595, 6.806676, 0.921254)),
    "arcs": (3959.71504, (3, 11.446734, 0.284043)),
    "mirrored halves": (2318.37713, (0, 5.446452, 2.963043)),
    "moved, turned and mirrored": (7596.01239, (-1, 8.663022, 1.629884)),
    "several profiles": (11468.8145, (1.246011, 0, 4)),
    "a turned plane": (31166.1515, (-0.069809, 0.041354, -0.180508)),
    "boxes and cylinders at points": (8442.6193, (-8.528159, 0, 1.411213)),
    "raised on its middle": (2323.06512, (0, 0, 3.841339)),
    "a part with a hole joined to one with a hole": (7781.57661, (20.253794, 0, 0.058901)),
    "a step whose top was cut off elsewhere": (10913.2158, (22.49514, 10.000046, 8.027581)),
    "rounded, cut off and offset": (15144.9831, (0.139972, -5.219265, 5.416576)),
}
