"""Shards from anywhere in order: for those who read features without this project's index."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import webdataset
from webdataset.shardlists import expand_urls

from pipeline.runtime.errors import UserError
from pipeline.shards.embeddings import restore, scale_member
from pipeline.shards.tars import decode_array

SCHEMES = ("", "file", "http", "https")


def stream(urls: str | Sequence[str], fields: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Samples of shards, one after the other, with little memory.

    Args:
        urls: paths with braces, ``https:`` and ``http:``, or a list of such. What WebDataset opens besides starts
            programs.
        fields: of the manifest beside the shards; other members come as bytes.

    Yields:
        The key, and each member by name: embeddings as float16 or float32, other arrays as they are.

    Raises:
        UserError: a member is damaged, or a URL is of another kind.
    """
    names = expand_urls(urls) if isinstance(urls, str) else list(urls)  # braces and ``::`` can hide what begins a URL
    for name in names:
        if urlsplit(name).scheme not in SCHEMES or name == "-":
            raise UserError(f"{name[:80]}: shards are read from files, http: and https: only")
    scales = {scale_member(name) for name, field in fields.items() if field.get("encoding") == "int8"}
    for sample in webdataset.WebDataset(names, shardshuffle=False, empty_check=False):
        key = sample["__key__"]
        arrays = {name: decode_array(sample[name], f"{key}.{name}") for name in fields if name in sample}
        missing = sorted(set(fields) - set(arrays))
        if missing:
            raise UserError(f"{key} has no {missing[0]}: the shards do not fit this manifest")
        members: dict[str, Any] = {
            name: sample[name] for name in sample if not name.startswith("__") and name not in fields
        }
        for name, array in arrays.items():
            encoding = fields[name].get("encoding")
            if name not in scales:
                members[name] = restore(array, arrays.get(scale_member(name)), encoding) if encoding else array
        yield key, members
