"""Embeddings as shards hold them: float16, bfloat16, or int8 with a scale for each token.

numpy knows no bfloat16: its bits are stored as uint16, and the manifest says ``encoding: bfloat16``.
"""

from typing import Any

import numpy as np

from pipeline.shards.writer import encode_array

DTYPES = ("float16", "bfloat16", "int8")
FLOAT16_MAX = float(np.finfo(np.float16).max)


def scale_member(member: str) -> str:
    """Where the scales of an int8 member are: ``image.npy`` -> ``image_scale.npy``."""
    return member.replace(".npy", "_scale.npy")


def fields(member: str, shape: tuple[int, ...], dtype: str) -> dict[str, dict[str, Any]]:
    """The manifest's description of a member and of its scales.

    Args:
        shape: (…, T, D).
        dtype: one of ``DTYPES``.
    """
    stored = {"float16": "float16", "bfloat16": "uint16", "int8": "int8"}[dtype]
    described: dict[str, dict[str, Any]] = {member: {"shape": list(shape), "dtype": stored, "encoding": dtype}}
    if dtype == "int8":
        described[scale_member(member)] = {"shape": list(shape[:-1]), "dtype": "float32"}
    return described


def store(tokens: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Round embeddings to what is stored.

    Args:
        tokens: (…, T, D) float32, finite.
        dtype: one of ``DTYPES``.

    Returns:
        The stored array, and (…, T) float32 scales for int8.
    """
    if dtype == "float16":
        return np.clip(tokens, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16), None
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(tokens, np.float32).view(np.uint32)
        # To the nearest, halves to even: what is cut off is half of the last kept bit at most.
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), None
    scales = np.abs(tokens).max(axis=-1).astype(np.float32) / 127
    safe = np.where(scales > 0, scales, 1)[..., None]
    return np.clip(np.rint(tokens / safe), -127, 127).astype(np.int8), scales


def restore(stored: np.ndarray, scales: np.ndarray | None, dtype: str) -> np.ndarray:
    """What ``store`` rounded, as float16 or float32: (…, T, D)."""
    if dtype == "float16":
        return stored
    if dtype == "bfloat16":
        widened: np.ndarray = (stored.astype(np.uint32) << 16).view(np.float32)
        return widened
    assert scales is not None, "int8 comes with scales"
    scaled: np.ndarray = stored.astype(np.float32) * scales[..., None]
    return scaled


def rounded(tokens: np.ndarray, dtype: str) -> np.ndarray:
    """Embeddings as they would come back from a shard."""
    return restore(*store(tokens, dtype), dtype)


def members(member: str, tokens: np.ndarray, dtype: str) -> dict[str, bytes]:
    """A sample's members of a tar."""
    stored, scales = store(tokens, dtype)
    made = {member: encode_array(stored)}
    if scales is not None:
        made[scale_member(member)] = encode_array(scales)
    return made
