"""Clouds that find their pictures."""

import numpy as np
import torch

from pipeline.encoders.alignment import AlignmentHead, retrieval
from pipeline.pretraining.contrastive import caption_tokenizer, contrastive_loss


def unit(array):
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_ranks_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(60, 8))
    first, second = unit(shapes), unit(shapes + rng.normal(size=shapes.shape))
    found = retrieval(first, second)
    for name, a, b in (("shape_to_image", first, second), ("image_to_shape", second, first)):
        for k in (1, 5):
            hits = [i in np.argsort(-(b @ a[i]))[:k] for i in range(60)]
            assert found[name][f"top{k}"] == round(float(np.mean(hits)), 4)
    assert retrieval(first, first)["shape_to_image"]["top1"] == 1


def test_the_contrastive_loss_is_the_mean_over_rows_and_columns():
    first = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    second = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    scores = (3 * first @ second.T).double().numpy()

    def one_way(matrix):
        return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(matrix)])

    expected = (one_way(scores) + one_way(scores.T)) / 2
    assert abs(float(contrastive_loss(first, second, torch.tensor(3.0).log())) - expected) < 1e-5


def test_a_head_comes_back_from_its_file(tmp_path):
    head = AlignmentHead(6, 3)
    head.save(tmp_path)
    loaded = AlignmentHead.load(tmp_path)
    tokens = torch.randn(2, 4, 6)
    torch.testing.assert_close(loaded(tokens), head(tokens))
    assert torch.allclose(loaded(tokens).norm(dim=1), torch.ones(2))
    assert AlignmentHead.load(tmp_path / "none") is None


def test_the_captions_tokenizer_knows_every_text_and_its_extra_tokens():
    captions = ["Generate a CAD model with a thin washer."] * 3 + ["Create a flange."]
    tokenizer = caption_tokenizer(captions, 300, ["<cad8:NEW>"])
    for text in (*captions, "Ünknöwn — text", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert tokenizer.get_vocab()["<cad8:NEW>"] == len(tokenizer) - 1
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
