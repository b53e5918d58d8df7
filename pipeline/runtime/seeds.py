"""Randomness that names alone decide: the same on any machine, whatever was drawn before and by whom.

Nobody else derives any. Parts are the seed, the purpose and what it is drawn for, ``generator(seed, "points", id)``:
no two purposes share their numbers. torch's generators are given a ``digest``; or, where weights begin at random, the
seed of params.yaml as it stands.
"""

import hashlib
import random

import numpy as np


def digest(*parts: object) -> int:
    """64 bits that the parts decide: the first eight bytes of the sha256 of them, joined by slashes."""
    return int.from_bytes(hashlib.sha256(_joined(parts).encode()).digest()[:8], "big")


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that the parts decide, for those who draw many."""
    return np.random.default_rng(digest(*parts))


def plain_generator(*parts: object) -> random.Random:
    """The same without numpy: what made parts are drawn with, from which all that was trained on them follows."""
    return random.Random(_joined(parts))


def uniform(*parts: object) -> float:
    """A number in [0, 1) that the parts decide."""
    return digest(*parts) / 2**64


def draws(names: np.ndarray, *parts: object) -> np.ndarray:
    """A number in [0, 1) for each of many names, which the name and the parts decide.

    Args:
        names: (N,) uint64, each a ``digest``.

    Returns:
        (N,) float64.
    """
    return (_mixed(names, *parts) >> np.uint64(11)) * 2.0**-53


def shuffled(names: np.ndarray, *parts: object) -> np.ndarray:
    """The places of many names in a random order that the names and the parts decide.

    Args:
        names: (N,) uint64, each a ``digest``.

    Returns:
        (N,) int64.
    """
    return np.argsort(_mixed(names, *parts), kind="stable")


def _joined(parts: tuple[object, ...]) -> str:
    return "/".join(map(str, parts))


def _mixed(names: np.ndarray, *parts: object) -> np.ndarray:
    """64 bits for each name: splitmix64's finalizer (Steele et al. 2014, "Fast splittable pseudorandom number
    generators") of the name and the digest of the parts. Hashing each name with the parts would take a microsecond.
    """
    mixed = names ^ np.uint64(digest(*parts))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
