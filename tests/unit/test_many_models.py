"""What goes through the names of a large dataset keeps none of them."""

import io
import itertools
import json
import tracemalloc
import zipfile
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.published import SPLIT_FILE, SPLITS, read_split
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.corpus.duplicates import leave_out_known
from pipeline.corpus.selection import Selection
from pipeline.corpus.settings import Split
from pipeline.corpus.zip_writer import EPOCH, zip_writer
from pipeline.runtime.errors import UserError

NUMBER = 4000


def base(number):
    return f"0000/{number:08d}"


@contextmanager
def at_most(num_bytes):
    """What is done takes no more memory of Python's at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


names = st.lists(st.text(st.characters(exclude_categories=["Cs"])))


@given(st.dictionaries(st.sampled_from([*SPLITS, "other"]), names), st.sampled_from([None, 1]), st.booleans())
def test_the_published_split_is_read_as_json_is(document, indent, ascii_only):
    text = json.dumps({**document, "version": {"of": [1, "train"]}}, indent=indent, ensure_ascii=ascii_only)
    expected = [(name, split) for split in SPLITS for name in document.get(split, [])]
    for encoding in ("utf-8", "utf-8-sig"):
        assert list(read_split(text.encode(encoding))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"train": ["a"',
        '{"train": ["a",]}',
        '{"train": ["a"],}',
        '{"train": ["a" "b"]}',
        '{"train" ["a"]}',
        '{"train": "a"}',
        '{"train": ["a"]} x',
        '{"train": ["a',
        "\xff",
    ],
)
def test_a_damaged_split_is_told(tmp_path, text):
    for name in ("json", "txt"):
        (tmp_path / name).mkdir()
    (tmp_path / SPLIT_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{SPLIT_FILE} is damaged"):
        list(Dataset(tmp_path).published_split())


def test_the_published_split_is_read_name_by_name():
    data = json.dumps({"test": [base(number) for number in range(NUMBER)]}).encode()
    with at_most(len(data) + 10_000):  # its text, and a name: all names are four times as much
        assert sum(1 for _ in read_split(data)) == NUMBER


def test_duplicates_are_left_out_as_they_are_found():
    selection, rejects = Selection(), Rejects()
    for number in range(NUMBER):
        selection.add({"id": f"{base(number)}_00001", "program_hash": f"{number // 2}"}, "", is_prefix=False)
    published = ((base(number), "test" if number % 2 else "train") for number in range(NUMBER))
    selection.assign_splits(Split(validation=0.0, test=0.0), 0, published)
    with at_most(50_000):  # all of them are ten times as much
        leave_out_known(selection, frozenset(), rejects)
    assert selection.counts() == {"train": NUMBER // 2, "validation": 0, "test": 0}
    assert len(rejects) == NUMBER // 2
    first = next(iter(rejects))
    assert (first.id, first.detail) == (f"{base(1)}_00001", f"the same program as {base(0)}_00001 of the train split")


def test_a_zip_has_the_bytes_of_pythons_own(monkeypatch):
    """Also where there are more files, or they lie farther out, than the first zips could say."""
    files = [(f"json/{number}{'é' * (number % 7 == 0)}.json", b"x" * number * 3) for number in range(50)]
    for wide, some in itertools.product((False, True), ([], files[:10], files)):
        if wide:
            monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1500)
            monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 8)
        expected, made = io.BytesIO(), io.BytesIO()
        with zipfile.ZipFile(expected, "w") as archive:
            for name, data in some:
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        with zip_writer(made) as add:
            for name, data in some:
                add(name, data)
        assert made.getvalue() == expected.getvalue()


def test_a_zip_is_written_file_by_file(tmp_path):
    """What is kept is the state of one compression; Python's own would be four times as much."""
    with open(tmp_path / "x.zip", "wb") as file, at_most(500_000), zip_writer(file) as add:
        for number in range(NUMBER):
            add(f"json/{base(number)}.json", b"{}")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert len(archive.namelist()) == NUMBER
