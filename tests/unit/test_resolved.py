"""Resolved models are known by their manifest."""

import json
import os

from pipeline.runtime.fingerprint import sha256_folder
from pipeline.settings.resolved import MANIFEST, identity, model_sha256


def test_a_model_is_hashed_once(tmp_path):
    llm = tmp_path / "llm"
    llm.mkdir()
    (llm / "weights").write_bytes(b"one")
    first = sha256_folder(llm)
    assert model_sha256(llm) == first  # there is no manifest yet
    (tmp_path / MANIFEST).write_text(json.dumps({"llm": identity(llm) | {"sha256": "as recorded"}}))
    assert model_sha256(llm) == "as recorded"
    (llm / "weights").write_bytes(b"two")  # by hand, of the same size
    later = (tmp_path / MANIFEST).stat().st_mtime_ns + 1
    os.utime(llm / "weights", ns=(later, later))
    assert model_sha256(llm) == sha256_folder(llm) != first
    (llm / "weights").write_bytes(b"another")
    os.utime(llm / "weights", ns=(0, 0))
    assert model_sha256(llm) == sha256_folder(llm) != first
