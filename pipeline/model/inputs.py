"""From a sample's parts to the batch that the model takes."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.model.cad_mllm import INSTRUCTION, Batch

LOOKED_AT = 16  # captions of a block
JOINED = 64  # words in a text


@dataclass(frozen=True, slots=True)
class Inputs:
    """One sequence's parts.

    Attributes:
        prompt: token ids of instruction and caption.
        program: token ids of the model's notation, its end included; empty where it is to be generated.
        points: (T, D) features or None; image: (V, T, D) features or None, with the views' numbers.
    """

    prompt: Sequence[int]
    program: Sequence[int]
    points: np.ndarray | None = None
    image: np.ndarray | None = None
    views: tuple[int, ...] = ()


def tokenise_prompts(tokenizer: Any, captions: list[str], max_caption_tokens: int) -> list[list[int]]:
    """Token ids of instruction and caption, the caption cut to ``max_caption_tokens``."""
    if not captions:
        return []
    head = tokenizer(INSTRUCTION, add_special_tokens=False)["input_ids"]
    tail = tokenizer("\n", add_special_tokens=False)["input_ids"]
    bodies = _token_ids(tokenizer, captions)
    return [[*head, *body[:max_caption_tokens], *tail] for body in bodies]


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """What calling the tokenizer gives, in half the time where it has a backend: no masks, no offsets.

    It must have been called before, which takes back the padding and truncation that it may have been stored with.
    """
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def caption_ids(tokenizer: Any, blocks: Iterable[list[str]]) -> set[int]:
    """All token ids in captions, some thousand of which are looked at together.

    A tokenizer that takes words one by one, as nearly all do, is asked for each word once. Whether it does is looked at
    in the first captions of each block.
    """
    found: set[int] = set()
    known: set[str] = set()
    apart = True
    with tokenising_on_all_cores():
        for captions in blocks:
            apart = apart and _takes_words_apart(tokenizer, captions[:LOOKED_AT])
            texts = captions
            if apart:
                words = _words(captions) - known
                known |= words
                texts = _joined(words)
            if texts:
                found.update(*_token_ids(tokenizer, texts))
    return found


def _words(captions: list[str]) -> set[str]:
    """All words, each with the space before it."""
    first: set[str] = set()
    others: set[str] = set()
    for caption in captions:
        word, space, rest = caption.partition(" ")
        first.add(word)
        if space:
            others.update(rest.split(" "))
    return first | {f" {word}" for word in others}


def _joined(words: set[str]) -> list[str]:
    """Texts with all the words: a tokenizer takes longer for a text than for a word more."""
    first = sorted(word for word in words if not word.startswith(" "))
    others = sorted(words.difference(first))
    return first + ["".join(others[at : at + JOINED]) for at in range(0, len(others), JOINED)]


def _takes_words_apart(tokenizer: Any, captions: list[str]) -> bool:
    words = sorted(_words(captions))
    ids = dict(zip(words, _token_ids(tokenizer, words), strict=True))
    split = (caption.split(" ") for caption in captions)
    expected = [[id_ for word in (first, *(f" {w}" for w in rest)) for id_ in ids[word]] for first, *rest in split]
    return _token_ids(tokenizer, captions) == expected


@contextmanager
def tokenising_on_all_cores() -> Iterator[None]:
    """For many texts at once; else a tokenizer keeps to one core, since its threads do not outlive a fork."""
    name = "TOKENIZERS_PARALLELISM"  # looked up at every call
    before = os.environ.get(name, "false")
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ[name] = before


def collate(inputs: Sequence[Inputs], num_tokens: dict[str, int], padded: bool = False) -> Batch:
    """Put sequences into one batch.

    Args:
        num_tokens: positions that a sample's projected ``point_cloud`` and ``image`` take.
        padded: a row for each sequence, padded on the left, as generation needs; else all of them in one row.
    """
    num_text = sum(len(i.prompt) for i in inputs)
    num_cad = sum(len(i.program) for i in inputs)
    clouds = [i.points for i in inputs if i.points is not None]
    at = {"text": 1, "cad": 1 + num_text, "points": 1 + num_text + num_cad}
    at["image"] = at["points"] + len(clouds) * num_tokens.get("point_cloud", 0)

    def take(part: str, count: int) -> list[int]:
        first = at[part]
        at[part] += count
        return list(range(first, first + count))

    rows = []
    for item in inputs:
        row = take("image", num_tokens["image"] if item.image is not None else 0)
        row += take("points", num_tokens["point_cloud"] if item.points is not None else 0)
        rows.append(row + take("text", len(item.prompt)) + take("cad", len(item.program)))
    lengths = tuple(len(row) for row in rows)
    if padded:
        rows = [[0] * (max(lengths) - len(row)) + row for row in rows]
    # The position before each program token predicts it; the last of the prompt predicts the first.
    ends = zip(itertools.accumulate(len(row) for row in rows), inputs, strict=True)
    positions = [position for end, item in ends for position in range(end - len(item.program) - 1, end - 1)]
    images = [i.image for i in inputs if i.image is not None]
    cad_ids = torch.tensor([token for i in inputs for token in i.program], dtype=torch.long)
    return Batch(
        text_ids=torch.tensor([token for i in inputs for token in i.prompt], dtype=torch.long),
        cad_ids=cad_ids,
        points=_stack(clouds),
        images=_stack(images),
        views=torch.tensor([i.views for i in inputs if i.image is not None]) if images else None,
        gather_BL=torch.tensor(rows if padded else [list(itertools.chain.from_iterable(rows))]),
        loss_positions=torch.tensor(positions, dtype=torch.long),
        targets=cad_ids,
        lengths=lengths,
    )


def _stack(arrays: list[np.ndarray]) -> Tensor | None:
    return torch.from_numpy(np.stack(arrays)) if arrays else None
