"""Outs are links into DVC's cache, so that they take their space once: nothing may be written into them."""

import hashlib
import stat

from tests.func.test_interruption import contents

OUTS = ("models", "data/corpus", "data/geometry", "data/features/image", "checkpoints/stage3_all",
        "evaluations/stage3_all", "report")  # fmt: skip
BY_HAND = (
    ("features", "verify", "--modality", "image", "--rebuild"),
    ("models",),
    ("corpus",),
    ("geometry",),
    ("features", "--modality", "image"),
    ("train", "stage3_all"),
    ("evaluate", "stage3_all"),
    ("report",),
)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def is_link_into(cache, path):
    """Whether a file is one of the cache's, under another name, and cannot be written by mistake."""
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    return path.samefile(cache / digest[:2] / digest[2:]) and not path.stat().st_mode & stat.S_IWUSR


def test_outs_are_links_into_the_cache_and_no_command_writes_into_them(copy):
    # DVC links no file anew that is of a type it may be: with reflink or copy first, all that is made is there twice.
    assert copy.run("dvc", "config", "cache.type").strip() == "hardlink,copy"
    copy.run("dvc", "config", "--local", "cache.type", "hardlink")  # for the whole of what was copied with the project
    copy.run("dvc", "checkout", "--relink", "dvc.yaml")
    copy.run("dvc", "config", "--local", "--unset", "cache.type")
    cache = copy.folder / ".dvc/cache/files/md5"
    before = {out: contents(copy.folder / out) for out in OUTS}
    for out in OUTS:
        found = [path for path in files(copy.folder / out) if path.stat().st_size]
        assert found
        assert all(is_link_into(cache, path) for path in found), out
    damaged = copy.folder / "data/features/image/train-000000.tar"
    damaged.unlink()
    damaged.write_bytes(b"junk")
    copy.change("lr: 0.001", "lr: 0.002", after="stage3_all:")
    for command in BY_HAND:
        copy.call(*command)
    assert contents(copy.folder / "checkpoints/stage3_all") != before["checkpoints/stage3_all"]
    for path in files(cache):
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir")
    copy.run("dvc", "checkout", "--force", "dvc.yaml")
    assert {out: contents(copy.folder / out) for out in OUTS} == before
    copy.run("dvc", "repro", "train@stage3_all")
    weights = copy.folder / "checkpoints/stage3_all/adapter_model.safetensors"
    assert contents(weights.parent)[weights.name] != before["checkpoints/stage3_all"][weights.name]
    assert is_link_into(cache, weights), "what a stage makes takes its space once"
