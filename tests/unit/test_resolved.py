"""Resolved models are known by their manifest."""

import json
import os

import pytest

from pipeline.runtime.fingerprint import sha256_folder
from pipeline.settings.resolved import MANIFEST, identity, model_sha256
from pipeline.weights.resolve import build_models


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


@pytest.mark.slow
def test_a_model_that_a_disk_has_damaged_is_made_again_and_no_other(smoke, tmp_path):
    scratch, out, made = tmp_path / "scratch", tmp_path / "out", {}

    def look(number, total, _):
        made.update({path.stem: path.stat().st_mtime_ns for path in scratch.glob("*_encoder.json")})
        if number == 2 and not config.is_file():
            raise KeyboardInterrupt

    config = scratch / "never"
    with pytest.raises(KeyboardInterrupt):
        build_models(smoke.models, 0, scratch, out, look)
    before, config = made.copy(), scratch / "image_encoder/config.json"
    config.write_text(config.read_text().replace("dinov2", "dinov3"))
    manifest = build_models(smoke.models, 0, scratch, out, look)
    assert {name for name in before if made[name] != before[name]} == {"image_encoder"}
    assert manifest["image_encoder"]["sha256"] == sha256_folder(out / "image_encoder")
