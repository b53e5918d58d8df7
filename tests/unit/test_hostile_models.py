"""Weights of strangers, tried: no pickle in them is run, no code that comes with them, no claim of theirs believed."""

import io
import json
import pickle
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from pipeline.encoders.pickles import read_pickle
from pipeline.encoders.tensors import read_tensors
from pipeline.model.checkpoint import read_tensors as read_trained
from pipeline.runtime.errors import UserError
from tests.unit.hostile import Bomb, bounded
from tests.unit.test_encoders import models, quiet


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def with_pickle(data, instead, method=zipfile.ZIP_STORED):
    """A file of ``torch.save`` whose pickle is another."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, instead if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_no_pickle_of_a_checkpoint_is_run(tmp_path, mark, suffix):
    path = tmp_path / f"x{suffix}"
    tensors = {"a": torch.ones(2)}
    for content in (
        saved({"state_dict": tensors, "hyper_parameters": Bomb(mark)}),
        with_pickle(saved(tensors), b"cposix\nsystem\n(S'touch it'\ntR."),
        with_pickle(saved(tensors), pickle.dumps([Bomb(mark)])),
        pickle.dumps(Bomb(mark)),
    ):
        path.write_bytes(content)
        try:
            assert read_tensors(path)["a"].tolist() == [1, 1]
        except UserError as error:
            assert path.name in str(error)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match="damaged"):
        read_trained(path)


def tensor(storage, offset, size, stride):
    """What ``torch.save`` would write of such a tensor, whatever is true."""
    view = torch.as_strided(torch.zeros(4), (2, 2), (2, 1))
    data = saved({"a": view})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
        script = archive.read(name)
    before = b"K\x00K\x02K\x02\x86q"  # offset 0, size (2, 2)
    assert before in script

    def number(value):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    end = script.index(before)
    after = script.index(b"\x86q", end + len(before))
    return with_pickle(
        data, script[:end] + number(offset) + number(size) * 2 + b"\x86q\x20" + number(stride) * 2 + script[after:]
    )


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, 1 << 40, 0), (0, 1 << 20, 0), (5, 1, 1), (-1, 1, 1), (0, 2, 9)]
)
def test_a_tensor_lies_within_its_file(tmp_path, offset, size, stride):
    (tmp_path / "x.pt").write_bytes(tensor(4, offset, size, stride))
    with bounded(seconds=5, memory=64 << 20), pytest.raises(UserError, match="can be read: ValueError: a tensor"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "script",
    [
        b"\x80\x02)" + b"\x86\x86" * 2 + b".",
        b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s.",  # tuples within tuples, as a key
        b"\x80\x02}(K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01u.",  # doubled sixty times, as a key
        b"\x80\x02\x8e" + b"\xff" * 7 + b"\x7f.",  # bytes that are not there
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x00xR.",
        b"\x80\x02\x82\x01.",
        b"P../../x\n.",
        b"h\x05.",
        b"t.",
        b"",
    ],
)
def test_what_a_pickle_asks_for_is_read_at_once_or_refused(script):
    with bounded(seconds=2, memory=64 << 20):
        try:
            read_pickle(script)
        except (ValueError, LookupError, TypeError) as error:
            assert not isinstance(error, RecursionError)


def test_a_packed_pickle_is_not_unpacked(tmp_path):
    (tmp_path / "x.pt").write_bytes(
        with_pickle(saved({}), b"\x80\x02" + b"N0" * 50_000_000 + b"N.", zipfile.ZIP_DEFLATED)
    )
    with bounded(seconds=2, memory=32 << 20), pytest.raises(UserError, match="compressed"):
        read_tensors(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """Tiny models, as the stage leaves them."""
    from pipeline.weights.resolve import build_models

    folder = tmp_path_factory.mktemp("models")
    (folder / "s").mkdir()
    build_models(models(), 0, folder / "s", folder / "m", quiet)
    return folder / "m"


def build(tmp_path, **sources):
    from pipeline.weights.resolve import build_models

    (tmp_path / "s").mkdir()
    build_models(models(**sources), 0, tmp_path / "s", tmp_path / "out", quiet)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llm", "image_encoder"])
def test_weights_in_a_pickle_are_not_opened(tmp_path, mark, resolved, name):
    shutil.copytree(resolved / name, tmp_path / "model")
    torch.save(
        {**load_file(tmp_path / "model/model.safetensors"), "x": Bomb(mark)}, tmp_path / "model/pytorch_model.bin"
    )
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(UserError, match=f"models.{name}: .* cannot be loaded"):
        build(tmp_path, **{name: {"source": f"path:{tmp_path / 'model'}"}})


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_that_comes_with_a_model_is_not_run(tmp_path, mark, resolved, file, monkeypatch):
    """Nor is it asked for: transformers would ask on the terminal, and wait."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    name = "image_encoder" if file.startswith("pre") else "llm"
    shutil.copytree(resolved / name, tmp_path / "model")
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n"
    (tmp_path / "model/own.py").write_text(code)
    kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoImageProcessor")
    own = dict.fromkeys(kinds, "own.Own") | {"AutoTokenizer": ["own.Own", "own.Own"]}
    changed = {"auto_map": own, "model_type": "own"} if file == "config.json" else {"auto_map": own}
    settings = json.loads((tmp_path / "model" / file).read_text())
    kind = {"tokenizer_class": "Own", "image_processor_type": "Own"} if file != "config.json" else {}
    (tmp_path / "model" / file).write_text(json.dumps(settings | changed | kind))
    with pytest.raises(UserError, match=f"models.{name}: .* cannot be loaded"):
        build(tmp_path, **{name: {"source": f"path:{tmp_path / 'model'}"}})
