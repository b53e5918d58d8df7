"""Captions for synthetic parts, in the manner of Omni-CAD's: mostly qualitative, varied, rarely with sizes."""

import random

OPENINGS = (
    "Generate a CAD model with",
    "Generate a CAD design with",
    "Generate a CAD model of",
    "Create a CAD model with",
    "Design a part with",
)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def count(number: int, noun: str) -> str:
    """``four holes``, ``one hole``."""
    word = NUMBERS[number] if number < len(NUMBERS) else "many"
    return f"{word} {noun}" if number == 1 else f"{word} {noun}s"


def article(phrase: str) -> str:
    """The phrase with ``a`` or ``an``."""
    is_vowel = phrase[0] in "aeio8" or phrase[:2] in ("L-", "I-")
    return f"{'an' if is_vowel else 'a'} {phrase}"


def proportion(rng: random.Random, thickness: float, size: float) -> str:
    """An adjective for a part that is ``thickness`` high and ``size`` wide, or nothing."""
    ratio = thickness / size
    word = (
        "thin"
        if ratio < 0.12
        else "flat"
        if ratio < 0.25
        else "tall"
        if ratio > 1.2
        else "thick"
        if ratio > 0.45
        else ""
    )
    return f"{word} " if word and rng.random() < 0.7 else ""


def caption(rng: random.Random, body: str, features: list[str], size_mm: tuple[float, float, float] | None) -> str:
    """One sentence or two: the body, its features in any order, and once in eight times the overall size, if known."""
    features = [feature for feature in features if feature]
    rng.shuffle(features)
    text = f"{rng.choice(OPENINGS)} {article(body)}"
    if features:
        joined = features[0] if len(features) == 1 else ", ".join(features[:-1]) + " and " + features[-1]
        text += f"{rng.choice((', featuring', ' with', ', having', ' that has'))} {joined}"
    text += "."
    if rng.random() < 0.125 and size_mm:
        text += " It measures {:g} by {:g} by {:g} millimetres.".format(*size_mm)
    return text
