"""Families of synthetic parts that a lathe makes: round about an axis, with a few flats and holes."""

import math
import random

from pipeline.cad.language.program import Extent, Profile
from pipeline.cad.parts import captions
from pipeline.cad.parts.captions import count, proportion
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW, Draft
from pipeline.cad.parts.shapes import circle, extrude, regular, ring_of, rounded, symmetric


def washer(rng: random.Random) -> Draft:
    """A ring, at times with a shoulder."""
    outer = rng.randrange(24, 101, 2)
    inner = max(6, round(outer * rng.choice((0.3, 0.4, 0.5, 0.6))))
    t = rng.randrange(2, max(4, outer // 5))
    parts = [extrude("top", [Profile(circle(outer), (circle(inner),))], t)]
    words = ["a circular hole through the centre"]
    height = t
    if rng.random() < 0.4:
        wall = max(2, round((outer - inner) / 2 * 0.4))
        rise = rng.randrange(t, 3 * t + 1)
        collar = [Profile(circle(inner + 2 * wall), (circle(inner),))]
        parts.append(extrude("top", collar, rise, JOIN, (0.0, 0.0, float(t))))
        words.append("a raised collar around the hole")
        height += rise
    body = f"{proportion(rng, t, outer)}{rng.choice(('washer', 'ring', 'circular disc'))}"
    return Draft(parts, body, words, (outer, outer, height))


def flange(rng: random.Random) -> Draft:
    """A disc with a bolt circle, a hub and a bore."""
    outer = rng.randrange(60, 141, 4)
    t = rng.randrange(6, 19, 2)
    hub = round(outer * rng.choice((0.35, 0.42, 0.5)))
    bore = round(hub * rng.choice((0.45, 0.6, 0.7)))
    rise = rng.randrange(8, 49, 4)
    bolts = rng.choice((3, 4, 6, 8))
    hole = max(4, round(min(outer * 0.08, (outer - hub) / 2 * 0.5)))
    profile = Profile(circle(outer), (circle(bore), *ring_of(bolts, (outer + hub) / 2, hole)))
    parts = [
        extrude("top", [profile], t),
        extrude("top", [Profile(circle(hub), (circle(bore),))], rise, JOIN, (0.0, 0.0, float(t))),
    ]
    words = [f"{count(bolts, 'bolt hole')} around it", f"{proportion(rng, rise, hub)}cylindrical hub with a bore"]
    words[1] = captions.article(words[1])
    return Draft(parts, f"{proportion(rng, t, outer)}circular flange", words, (outer, outer, t + rise))


def stepped_shaft(rng: random.Random) -> Draft:
    """Coaxial cylinders along x, perhaps with a keyway or a centre bore."""
    steps = rng.choice((2, 3, 3, 4))
    diameters = [rng.randrange(12, 61, 2) for _ in range(steps)]
    for i in range(1, steps):
        if diameters[i] == diameters[i - 1]:
            diameters[i] += 6
    parts, x = [], 0.0
    for i, diameter in enumerate(diameters):
        length = rng.randrange(16, 65, 4)
        parts.append(extrude("right", circle(diameter), length, JOIN if i else NEW, (x, 0.0, 0.0)))
        x += length
    words = [count(steps, "cylindrical section")]
    choice = rng.random()
    if choice < 0.35:
        width, depth = min(8, max(3, diameters[0] // 4)), max(2, diameters[0] // 6)
        slot = rounded(12, width, width / 2, 8)
        parts.append(extrude("top", slot, depth + 1, CUT, (0.0, 0.0, diameters[0] / 2 - depth)))
        words.append("a keyway at one end")
    elif choice < 0.6:
        bore = max(4, round(min(diameters) * 0.5))
        parts.append(extrude("right", circle(bore), x, CUT))
        words.append("a bore along its axis")
    body = rng.choice(("stepped shaft", "stepped cylindrical shaft", "shaft"))
    return Draft(parts, body, words, (x, max(diameters), max(diameters)))


def hex_nut(rng: random.Random) -> Draft:
    """A hexagonal prism with a bore: a nut, or a bolt where it has a shank."""
    flats = rng.randrange(16, 61, 2)
    t = round(flats * rng.choice((0.4, 0.5, 0.8)))
    phase = rng.choice((0.0, math.pi / 6))
    if rng.random() < 0.5:
        bore = round(flats * rng.choice((0.4, 0.5, 0.6)))
        profile = [Profile(regular(6, flats, phase), (circle(bore),))]
        extent: float | Extent = symmetric(t / 2) if rng.random() < 0.5 else float(t)
        words = ["a circular hole through the middle"]
        return Draft(
            [extrude("top", profile, extent)], f"{proportion(rng, t, flats)}hexagonal nut", words, (flats, flats, t)
        )
    shank, length = round(flats * rng.choice((0.45, 0.55, 0.65))), rng.randrange(flats, 4 * flats, 4)
    parts = [extrude("top", regular(6, flats, phase), t), extrude("top", circle(shank), -length, JOIN)]
    words = [f"a {'long' if length > 2 * flats else 'short'} cylindrical shank"]
    return Draft(parts, "hexagonal bolt head", words, (flats, flats, t + length))


def rounded_knob(rng: random.Random) -> Draft:
    """A cylinder intersected with a prism: a knob with flats, on a stem."""
    outer, h = rng.randrange(30, 81, 2), rng.randrange(12, 41, 2)
    sides = rng.choice((4, 6, 8))
    flats = outer * rng.choice((0.86, 0.9, 0.94)) if sides != 4 else outer * 0.8
    stem, length = round(outer * rng.choice((0.3, 0.4))), rng.randrange(10, 41, 2)
    parts = [
        extrude("top", circle(outer), h),
        extrude("top", regular(sides, flats, math.pi / sides), h, INTERSECT),
        extrude("top", circle(stem), -length, JOIN),
    ]
    words = [
        f"{count(sides, 'flat face')} around it",
        f"{captions.article(proportion(rng, length, stem) + 'cylindrical stem')}",
    ]
    return Draft(parts, f"{proportion(rng, h, outer)}round knob", words, (outer, outer, h + length))


def pulley(rng: random.Random) -> Draft:
    """Two discs with a narrower one between them and a bore, at times with a hub."""
    outer, rim, groove = rng.randrange(40, 121, 4), rng.randrange(3, 11), rng.randrange(6, 25, 2)
    inner = round(outer * rng.choice((0.6, 0.7, 0.8)))
    bore = max(6, round(inner * rng.choice((0.25, 0.35, 0.45))))
    parts, z = [], 0.0
    for number, (diameter, width) in enumerate(((outer, rim), (inner, groove), (outer, rim))):
        ring = [Profile(circle(diameter), (circle(bore),))]
        parts.append(extrude("top", ring, width, JOIN if number else NEW, (0.0, 0.0, z)))
        z += width
    words = ["a groove around its rim", "a bore through the centre"]
    if rng.random() < 0.4:
        hub, rise = [Profile(circle(bore * 1.6), (circle(bore),))], rng.randrange(4, 21, 2)
        parts.append(extrude("top", hub, rise, JOIN, (0.0, 0.0, z)))
        words.append("a hub on one side")
        z += rise
    body = f"{proportion(rng, z, outer)}{rng.choice(('pulley', 'grooved wheel'))}"
    return Draft(parts, body, words, (outer, outer, z))
