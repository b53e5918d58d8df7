"""What benchmarks share: their smallest form, processes of their own, and the real models that most of them read."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.omnicad.listing import Entry
from pipeline.corpus.synthetic import make_synthetic_zip
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
# The user's Omni-CAD, else the part of it that our own figures are of.
RAW = ROOT / "data" / "raw" / "Omni-CAD"
OMNICAD = RAW if RAW.exists() else ROOT.parent / "shared" / "omnicad"


def parse(parser: argparse.ArgumentParser, **smallest: Any) -> argparse.Namespace:
    """The options, with ``--smoke`` among them, which puts these values in place of the defaults."""
    parser.add_argument("--smoke", action="store_true", help="the smallest form: that it runs; its figures say nothing")
    if parser.parse_known_args()[0].smoke:
        parser.set_defaults(**smallest)
    return parser.parse_args()


def in_child(folder: Path, function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives in a folder and in a process of its own.

    That is a new one, since its memory and its start are measured; in the smallest form it is a fork of this one, which
    has imported what takes seconds.
    """
    context = multiprocessing.get_context("fork" if "--smoke" in sys.argv else "spawn")
    with ProcessPoolExecutor(1, context, os.chdir, (folder,)) as pool:
        return pool.submit(function, *arguments).result()


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """``DATASET`` and ``--models``."""
    parser.add_argument("dataset", type=Path, nargs="?", default=OMNICAD, help="Omni-CAD's folder or zip")
    parser.add_argument("--models", "--limit", type=int, help="the first so many; all if left out")


def read_dataset(arguments: argparse.Namespace, folder: Path) -> tuple[Path, list[Entry]]:
    """The dataset and its models; for the smallest form synthetic parts, made in ``folder``.

    Ends with the reason where there is none.
    """
    path = arguments.dataset
    if arguments.smoke:
        data = Params.load(ROOT / "params.yaml").data
        few = data.synthetic.model_copy(update={"num_models": arguments.models})
        path = folder / "synthetic.zip"
        make_synthetic_zip(path, data.model_copy(update={"synthetic": few}), seed=0)
    try:
        return path, list(islice(open_dataset(path).listing(), arguments.models))
    except UserError as error:
        sys.exit(f"{error}; give the folder or zip as DATASET")
