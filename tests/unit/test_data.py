"""Samples of a split and their features: who is in, what is read of them and when."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.cad.language.grammar import Grammar
from pipeline.corpus.build import members_of
from pipeline.curriculum import data as data_module
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.plan import Example, StagePlan, share_out
from pipeline.model.inputs import INSTRUCTION, caption_ids
from pipeline.model.notation import CadNotation, TextNotation
from pipeline.runtime.errors import UserError
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.writer import write_shard

COUNT = 20
TOKENS = {"point_cloud": 3, "image": 8}
CAPTIONS = [f'Part «{number}», \n with "{"x" * number}"' for number in range(COUNT)]


class Characters:
    """A tokenizer of characters."""

    eos_token_id = 0

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        ids = [[ord(letter) for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


def key(number):
    return f"0000{number:08d}_00001"


def record(number):
    plain = {"id": f"0000/{number:08d}_00001", "key": key(number), "caption": CAPTIONS[number]}
    statistics = {"num_extrudes": 1, "num_curves": number}
    return {**plain, "statistics": statistics, "tokens": list(range(3, 5 + number))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty models in five shards, the last of them to validate on; two have no image."""
    made, tokens = tmp_path_factory.mktemp("data"), np.arange(2 * 4 * 2, dtype=np.float32).reshape(2, 4, 2)

    def corpus(numbers):
        return ((key(number), members_of(record(number))) for number in numbers)

    def clouds(numbers):
        return ((key(n), embeddings.members("point_cloud.npy", tokens[0, :3] + n, "float16")) for n in numbers)

    def images(numbers):
        with_images = (n for n in numbers if n not in (2, 9))
        return ((key(n), embeddings.members("image.npy", tokens + n, "float16")) for n in with_images)

    names = {f"{'train' if k < 4 else 'validation'}-{k:06d}.tar": range(4 * k, 4 * k + 4) for k in range(5)}
    for place, kind, samples, fields, details in (
        ("corpus", "corpus", corpus, {}, {"codec": {"bits": 8}}),
        ("point_cloud", "features/point_cloud", clouds, embeddings.fields("point_cloud.npy", (3, 2), "float16"), {}),
        ("image", "features/image", images, embeddings.fields("image.npy", (2, 4, 2), "float16"), {}),
    ):
        shards = [write_shard(made / place / name, samples(numbers)) for name, numbers in names.items()]
        write_manifest(made / place, kind, fields, details, shards)
    return made


def opened(folder, *modalities, split="train", notation=None):
    features = {modality: folder / modality for modality in modalities}
    return TrainingData(folder / "corpus", features, split, Characters(), 12, notation or CadNotation())


def test_samples_without_a_feature_are_left_out(folder):
    everyone, seen = opened(folder, "point_cloud"), opened(folder, "point_cloud", "image")
    assert [everyone.id(row) for row in range(len(everyone))] == [record(number)["id"] for number in range(16)]
    numbers = [number for number in range(16) if number not in (2, 9)]
    assert [seen.key(row) for row in range(len(seen))] == list(map(key, numbers))
    for row, number in enumerate(numbers):
        assert seen.caption(row) == CAPTIONS[number]
        assert seen.program(row).tolist() == record(number)["tokens"]
        assert seen.feature(row, "point_cloud").ravel()[0] == number
        assert seen.feature(row, "image", [1]).ravel().tolist() == [8 + number + i for i in range(8)]
    assert seen.corpus.captions(np.array([9, 0, 15, 15, 2])) == [CAPTIONS[number] for number in (9, 0, 15, 15, 2)]
    assert seen.corpus.captions(np.array([], int)) == []
    assert len(opened(folder, split="validation")) == 4
    assert len(opened(folder, split="test")) == 0


def test_features_of_another_corpus_are_told(folder, tmp_path):
    shard = write_shard(tmp_path / "train-000000.tar", [("x", {"image.npy": b""})])
    write_manifest(tmp_path, "features/image", embeddings.fields("image.npy", (2, 4, 2), "float16"), {}, [shard])
    with pytest.raises(UserError, match="none of the 16 samples of train has features"):
        TrainingData(folder / "corpus", {"image": tmp_path}, "train", Characters(), 12, CadNotation())


def test_an_epoch_is_planned_from_the_index_alone(folder, smoke, monkeypatch):
    def no_file_is_read(*_):
        raise AssertionError

    monkeypatch.setattr(os, "pread", no_file_is_read)
    data = opened(folder, "point_cloud", "image")
    stage = smoke.curriculum["stage3_all"].model_copy(update={"epochs": 1})
    steps = list(StagePlan(data.names, data.num_targets, stage, smoke.training, (2, 1), 0).steps())
    assert sorted(example.row for step in steps for example in step.examples) == list(range(14))
    assert all(e.num_targets == data.num_targets(np.array([e.row]))[0] for step in steps for e in step.examples)


def test_the_length_of_an_example_is_that_of_what_it_shows(folder):
    data = opened(folder, "point_cloud", "image")
    for combination, shown in (("text", 0), ("text+point_cloud", 3), ("point_cloud+image", 11), ("image", 8)):
        examples = [Example(row, combination, (1,), int(data.num_targets(np.array([row]))[0])) for row in (5, 0)]
        lengths = data.lengths(examples, data.prompts(examples), TOKENS)
        for example, length, inputs in zip(examples, lengths, data.load(examples), strict=True):
            assert len(inputs.prompt) + len(inputs.program) + shown == length
            caption = data.caption(example.row)[:12] if example.shows("text") else ""
            assert "".join(map(chr, inputs.prompt)) == f"{INSTRUCTION}{caption}\n"
        batches = list(data.batches(examples, 10_000, TOKENS, 0, 1))
        assert [sorted(batch.lengths) for batch, _ in batches] == [sorted(lengths)]
        assert len(share_out(lengths, 10_000)) == 1


def test_other_notations_are_counted_as_they_write(folder):
    grammar = Grammar(8)
    data = opened(folder, notation=TextNotation(grammar, Characters()))
    rows = np.array([3, 0, 3])
    expected = [len(data.notation.write(data.program(row).tolist())) for row in rows]
    assert data.num_targets(rows).tolist() == expected
    assert expected[1] > len(data.program(0))
    data.keep([3, 4])
    assert data.num_targets(np.array([0])).tolist() == expected[:1]


@pytest.mark.parametrize("block", [4096, 3])
def test_all_tokens_of_captions_are_found(folder, monkeypatch, block):
    data = opened(folder)
    monkeypatch.setattr(data_module, "CAPTIONS", block)
    assert data.text_ids() == {ord(letter) for caption in CAPTIONS[:16] for letter in INSTRUCTION + caption + "\n"}


@pytest.mark.parametrize("joins", [False, True])
def test_words_are_tokenised_once_where_a_tokenizer_takes_them_apart(joins):
    """A tokenizer with a token for two words is asked for whole captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    captions = [f"A plate  with {n} holes,\n{n} mm deep." for n in range(40)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not joins)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    asked = []
    monitored = SimpleNamespace(
        backend_tokenizer=SimpleNamespace(
            encode_batch_fast=lambda texts, **known: asked.append(texts) or backend.encode_batch_fast(texts, **known)
        )
    )
    expected = {id_ for caption in captions for id_ in tokenizer(caption)["input_ids"]}
    assert caption_ids(monitored, [captions[:20], captions[20:], captions]) == expected
    assert asked[-1] == captions if joins else set(asked[-1]) <= set(captions)
