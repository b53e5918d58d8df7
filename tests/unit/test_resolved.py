"""Resolved models are known by their manifest."""

import json

from pipeline.fingerprint import sha256_folder
from pipeline.resolved import MANIFEST, identity, model_sha256


def test_a_model_is_hashed_once(tmp_path):
    llm = tmp_path / "llm"
    llm.mkdir()
    (llm / "weights").write_bytes(b"one")
    first = sha256_folder(llm)
    assert model_sha256(llm) == first  # there is no manifest yet
    (tmp_path / MANIFEST).write_text(json.dumps({"llm": identity(llm) | {"sha256": "as recorded"}}))
    assert model_sha256(llm) == "as recorded"
    (llm / "weights").write_bytes(b"another")  # by hand
    assert model_sha256(llm) == sha256_folder(llm) != first
