"""Randomness that names decide: of one or of many, of known values and without a pattern."""

import ast
import hashlib
import random
import re

import numpy as np
import pytest

from pipeline.runtime.seeds import digest, draws, generator, plain_generator, shuffled, uniform
from tests.unit.test_structure import sources

NAMES = np.array([digest(f"0000{number:08d}_00001") for number in range(20_000)], np.uint64)


def test_single_draws_are_of_sha256():
    first = int(hashlib.sha256(b"0/split/0000/00000071").hexdigest()[:16], 16)
    assert digest(0, "split", "0000/00000071") == first
    assert uniform(0, "split", "0000/00000071") == first / 2**64
    point = np.random.default_rng(digest("3/points/0000/00000071_00005")).random()
    assert generator(3, "points", "0000/00000071_00005").random() == point
    assert plain_generator(3, 71, "kind").random() == random.Random("3/71/kind").random()


def test_many_draws_are_of_splitmix64():
    """Its first three numbers from seed 1234567, as Vigna's reference code gives them."""
    states = [(1234567 + step * 0x9E3779B97F4A7C15) % 2**64 for step in (1, 2, 3)]
    names = np.array(states, np.uint64) ^ np.uint64(digest("x"))
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert draws(names, "x").tolist() == [(number >> 11) / 2**53 for number in known]


def test_draws_are_even_and_know_nothing_of_each_other():
    found = np.stack([draws(NAMES, 0, "x"), draws(NAMES, 0, "y"), draws(NAMES, 1, "x")])
    assert found.min() >= 0
    assert found.max() < 1
    for each in found:
        counts, _ = np.histogram(each, 20, (0, 1))
        assert counts == pytest.approx(1000, abs=150)
    assert np.abs(np.corrcoef(found) - np.eye(3)).max() < 0.03
    order = shuffled(NAMES, 0, "x")
    assert sorted(order.tolist()) == list(range(len(NAMES)))
    assert abs(np.corrcoef(order, np.arange(len(NAMES)))[0, 1]) < 0.03


NUMPYS = {"default_rng", "Generator", "RandomState", "SeedSequence", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
OTHERS = {"Random", "SystemRandom", "set_seed", "seed"}


def is_seed(node):
    return ast.unparse(node).rpartition(".")[2] == "seed"


@pytest.mark.slow
def test_nobody_else_derives_randomness():
    """Generators are made in ``seeds``; torch's are given a digest or a seed as it stands; no seed is reckoned with."""
    files = dict(sources("pipeline", "stages", "benchmarks"))
    del files["pipeline/runtime/seeds.py"]
    nodes = [(file, node) for file, text in files.items() for node in ast.walk(ast.parse(text))]
    made, given = [], []
    for file, node in nodes:
        if isinstance(node, ast.Call):
            name, call = ast.unparse(node.func), f"{file}: {ast.unparse(node)}"
            last = name.rpartition(".")[2]
            if name.startswith(("np.random.", "random.")) or (last in NUMPYS | OTHERS and name != "torch.Generator"):
                made.append(call)
            if last.startswith("manual_seed"):
                given.append((call, node.args[0]))
    assert made == []
    assert len(given) > 10
    as_it_stands = [call for call, seed in given if is_seed(seed) or re.match(r"digest\(|0$", ast.unparse(seed))]
    assert [call for call, _ in given if call not in as_it_stands] == []
    reckoned = [
        (file, ast.unparse(node))
        for file, node in nodes
        if isinstance(node, ast.BinOp) and (is_seed(node.left) or is_seed(node.right))
    ]
    assert reckoned == []
