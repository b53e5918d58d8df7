"""What clouds and pictures are aligned by: captions, and the contrastive loss.

Shapes: B models, L tokens of a caption, W a tower's width, E the space's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = 100.0


class CaptionTower(nn.Module):
    """A small transformer over a caption's tokens: (B, L) ids, 0 is padding, to the mean of their states (B, 1, W)."""

    def __init__(self, vocabulary_size: int, width: int, num_layers: int = 2, max_length: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(torch.randn(max_length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """(B, L) token ids to (B, 1, W)."""
        padding = ids_BL == 0
        x_BLW = self.tokens(ids_BL) + self.positions[: ids_BL.shape[1]]
        x_BLW = self.layers(x_BLW, src_key_padding_mask=padding)
        seen = (~padding).unsqueeze(-1)
        out: Tensor = (x_BLW * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        return out


def contrastive_loss(first_BE: Tensor, second_BE: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's: each row's partner among all rows of the other side, both ways (Radford et al. 2021, figure 3)."""
    logits_BB = log_scale.exp().clamp(max=MAX_SCALE) * first_BE @ second_BE.T
    own = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, own) + F.cross_entropy(logits_BB.T, own)) / 2


def caption_tokenizer(captions: Sequence[str], vocabulary_size: int, extra: Sequence[str] = ()) -> Any:
    """A byte-level BPE of the captions' words; ``extra`` tokens follow. Id 0 is padding and the end.

    The same captions give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<end>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens(list(extra))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
