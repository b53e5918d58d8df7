"""Decoding: what the grammar costs, what a batch gives, what an untrained model builds. Prints one JSON object.

    python benchmarks/generation.py [--tokens 64] [--rounds 6] [--samples 1000] [--batch 32]

``constrained_over_plain``: tokens per second of ``transformers.generate`` with the grammar over without it, the same
model (SmolLM2-135M with the CAD vocabulary), batch and number of tokens; ``simple_profiles_over_plain``: also with
profiles kept simple. ``shipped_...``: the same of the small language model in the package, which ends its programs
itself. ``batch32_over_single``: the time for 32 prompts one by one over that for all at once; ``merged_over_adapter``:
tokens per second with the adapter within the weights over those with it beside them. Sides take turns; medians of
their ratios. ``parse_rate``, ``build_rate``: of programs sampled from a small random model, with the grammar and
without.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from _common import parse
from transformers import GenerationConfig, LogitsProcessorList

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.grammar import Grammar
from pipeline.cad.parts import synthesis
from pipeline.decoding.constrained import GrammarProcessor
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.generation.select import BuildTask, build_candidate
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, collate, tokenise_prompts
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.errors import RejectError
from pipeline.weights.resolve import build_models

CAPTIONS = ["A flange with six bolt holes.", "A plate.", "A stepped shaft, 80 mm long, with a groove.", "A bracket."]
LENGTH = 64  # of programs that an untrained model writes
TIMEOUT_S = 2  # for one of them: random outlines cut each other many times, and the kernel takes minutes over some
BUILT = 200  # of these, at most
SLACK = 24  # tokens within which any program can end
LONGEST = 160  # tokens of a program that ends by itself


def make_model(preset: str, folder: Path) -> CadMllmModel:
    """An untrained model of a preset."""
    p = Params.parse(presets.compose(preset), preset)
    build_models(p.models, 0, folder / "scratch", folder / "models", lambda *_: None)
    return CadMllmModel(folder / "models" / "llm", p.model, Grammar(p.codec.bits), 0, torch.float32).eval()


def prompts(model: CadMllmModel, count: int, captions: Sequence[str] = CAPTIONS) -> list[Inputs]:
    """Captions over and over."""
    tokenised = tokenise_prompts(model.tokenizer, list(captions), 64)
    return [Inputs(tokenised[number % len(captions)], []) for number in range(count)]


@torch.inference_mode()
def tokens_per_second(
    model: CadMllmModel,
    asked: Sequence[Inputs],
    at_least: int,
    constrained: bool = False,
    simple_profiles: bool = False,
    merged: bool = True,
) -> float:
    """Of a batch in which nothing ends before so many tokens; where that is 0, of what ends by itself."""
    batch = collate(asked, {}, padded=True)
    limit = at_least + SLACK if at_least else LONGEST
    processors = [GrammarProcessor(model.grammar, limit, [()] * len(asked), simple_profiles)] if constrained else []
    base, end = model.causal_lm, model.notation.end
    base.generation_config = GenerationConfig()
    started = time.perf_counter()
    with model.merged() if merged else contextlib.nullcontext():
        rows: torch.Tensor = base.generate(
            inputs_embeds=model.embed(batch),
            attention_mask=batch.gather_BL.ne(0).long(),
            generation_config=GenerationConfig(
                max_new_tokens=limit, min_new_tokens=at_least, eos_token_id=end, pad_token_id=end, do_sample=False
            ),
            logits_processor=LogitsProcessorList(processors),
        )
    return rows.numel() / (time.perf_counter() - started)


KINDS: dict[str, dict[str, bool]] = {
    "plain": {},
    "constrained": {"constrained": True},
    "simple_profiles": {"constrained": True, "simple_profiles": True},
    "adapter_beside": {"merged": False},
}


def over_plain(model: CadMllmModel, asked: Sequence[Inputs], at_least: int, rounds: int) -> dict[str, float]:
    """Tokens per second of each kind over those of plain ``generate``."""
    tokens_per_second(model, asked, at_least)  # warm-up
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        turn = number % len(KINDS)
        order = list(KINDS)[turn:] + list(KINDS)[:turn]  # machines drift within a round too
        rates = {kind: tokens_per_second(model, asked, at_least, **KINDS[kind]) for kind in order}
        for kind, rate in rates.items():
            ratios[kind].append(rate / rates["plain"])
        print({kind: round(rate) for kind, rate in rates.items()}, "tokens/s", file=sys.stderr)
    medians = {kind: statistics.median(found) for kind, found in ratios.items()}
    return {
        **{f"{kind}_over_plain": round(medians[kind], 3) for kind in ("constrained", "simple_profiles")},
        "merged_over_adapter": round(1 / medians["adapter_beside"], 2),
    }


def batched(model: CadMllmModel, tokens: int, batch: int) -> float:
    """Seconds for prompts one by one over seconds for all at once."""
    asked, decoding = prompts(model, batch), Decoding(tokens)
    started = time.perf_counter()
    generate_tokens(model, asked, decoding)
    together = time.perf_counter() - started
    started = time.perf_counter()
    for prompt in asked:
        generate_tokens(model, [prompt], decoding)
    return (time.perf_counter() - started) / together


def untrained(model: CadMllmModel, samples: int) -> dict[str, float]:
    """Shares of sampled programs that parse and build."""
    found, codec = {}, Codec(model.grammar.bits)
    for constrained in (True, False):
        decoding = Decoding(LENGTH, samples // len(CAPTIONS), 1.0, constrained=constrained)
        programs = [tokens for own in generate_tokens(model, prompts(model, len(CAPTIONS)), decoding) for tokens in own]
        parsed = []
        for tokens in programs:
            try:
                codec.decode(tokens)
            except RejectError:
                continue
            parsed.append(tuple(tokens))
        name = "constrained" if constrained else "plain"
        found[f"parse_rate_{name}"] = len(parsed) / len(programs)
        if parsed:
            tasks = [BuildTask(tokens, model.grammar.bits, None) for tokens in parsed[:: -(-len(parsed) // BUILT)]]
            with Sandbox(build_candidate, cores(), TIMEOUT_S, 4096) as sandbox:
                reasons = Counter(a.reason if isinstance(a, Failure) else "built" for a in sandbox.map(tasks))
            found |= {f"build_rate_{name}": reasons["built"] / len(tasks), f"built_of_{name}": len(tasks)}
            print(name, dict(reasons), file=sys.stderr)
    return {"samples": len(programs), **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--preset", default="smollm2", help="whose language model is decoded; default: smollm2")
    options = parse(parser, tokens=4, rounds=1, samples=8, batch=2, preset="smoke")
    with tempfile.TemporaryDirectory() as folder:
        small = make_model("smoke", Path(folder) / "small")
        figures = untrained(small, options.samples)
        shipped = make_model("quickstart", Path(folder) / "shipped")
        batch, families = options.batch, tuple(synthesis.FAMILIES)
        captions = [synthesis.make_part(1, number, families).caption for number in range(batch)]
        found = over_plain(shipped, prompts(shipped, batch, captions), 0, options.rounds)
        figures |= {f"shipped_{name}": value for name, value in found.items()}
        model = make_model(options.preset, Path(folder) / "large")
        figures |= over_plain(model, prompts(model, batch), options.tokens, options.rounds)
        rates = [batched(model, 24, batch) for _ in range(2)]
        figures[f"batch{batch}_over_single"] = round(statistics.median(rates), 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
