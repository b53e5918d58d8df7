"""DINOv2 (Oquab et al. 2023) through transformers: patch tokens of images, pooled on a grid.

Shapes: B images, G patches along a side, T tokens, D width.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.runtime.errors import UserError
from pipeline.runtime.state_dicts import damage_told


class DinoV2Encoder(nn.Module):
    """A frozen DINOv2 and its own preprocessing.

    Args:
        folder: a Hugging Face folder with config, weights and image processor; with or without registers.
        pool: patches averaged along each side into one token.
        image_size: pixels along a side, in place of the processor's own; positions are interpolated.

    Raises:
        UserError: the sizes do not fit, or the weights are damaged.
    """

    def __init__(self, folder: Path, pool: int, image_size: int | None = None) -> None:
        super().__init__()
        from transformers import AutoImageProcessor, AutoModel  # seconds, which a prompt without pictures does without
        from transformers.image_utils import SizeDict

        with damage_told(folder):
            self.model = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).eval()
        # The PIL backend gives the model's own numbers and needs no torchvision.
        self.processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        if image_size is not None:
            patch = self.model.config.patch_size
            if image_size % patch:
                raise UserError(f"features.image.image_size is {image_size}; it must be a multiple of {patch}")
            self.processor.size = SizeDict(shortest_edge=image_size)
            self.processor.crop_size = SizeDict(height=image_size, width=image_size)
            self.processor.do_center_crop = True
        self.pool = pool
        self.num_prefix_tokens = 1 + getattr(self.model.config, "num_register_tokens", 0)
        if self.grid_size % pool:
            raise UserError(f"features.image.pool is {pool}; it must divide the {self.grid_size} patches along a side")

    @property
    def grid_size(self) -> int:
        """Patches along a side of a preprocessed image."""
        crop = self.processor.crop_size if self.processor.do_center_crop else self.processor.size
        return int(crop["height"] // self.model.config.patch_size)

    @property
    def token_shape(self) -> tuple[int, int]:
        """(T, D) for one image."""
        return (self.grid_size // self.pool) ** 2, int(self.model.config.hidden_size)

    def preprocess(self, images: list[Image.Image]) -> Tensor:
        """Images as the model was trained on them: (B, 3, H, W) float32."""
        pixels: Tensor = self.processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        return pixels

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, T, D) patch tokens after the last norm, without CLS and registers, pooled."""
        return self.pooled(self.model(pixel_values=pixels_B3HW).last_hidden_state[:, self.num_prefix_tokens :])

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, G * G, D) patch tokens to (B, T, D) means over squares of ``pool`` patches."""
        if self.pool == 1:
            return tokens
        grid_BDGG = tokens.transpose(1, 2).reshape(len(tokens), -1, self.grid_size, self.grid_size)
        out: Tensor = F.avg_pool2d(grid_BDGG, self.pool).flatten(2).transpose(1, 2)
        return out
