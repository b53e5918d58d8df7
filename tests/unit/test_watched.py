"""What DVC does not see of a dataset is said."""

import pytest

from pipeline.cad.omnicad.raw_files import inner_links
from pipeline.cad.omnicad.watched import unwatched
from tests.unit.test_raw_files import linked_folders_and_files, linked_parts, make, one_down, pack, whole_link


def test_links_inside_are_what_dvc_does_not_see(tmp_path):
    made = make(tmp_path / "made")
    assert inner_links(made) == inner_links(pack(made, tmp_path / "x.zip")) == []
    assert inner_links(whole_link(tmp_path, made)) == []
    assert inner_links(one_down(tmp_path, made)) == [tmp_path / "raw/Omni-CAD"]
    deep = linked_folders_and_files(tmp_path, made)
    assert inner_links(deep) == [deep / "txt", deep / "json/0000", deep / "pcd/0000"]
    assert inner_links(deep, ("pcd", "img")) == [deep / "pcd/0000"]
    (deep / "pcd/self").symlink_to("self")
    assert inner_links(deep, ("pcd", "img")) == [deep / "pcd/0000"]


@pytest.mark.parametrize(
    "deps",
    [
        "stages: {}",
        "stages: {corpus: {cmd: x}}",
        "stages: {corpus: {deps: [{elsewhere: {}}]}}",
        "stages: {corpus: {foreach: [1], do: {deps: []}}}",
        "stages: [",
        "",
    ],
)
def test_what_dvc_does_not_see_is_said_whatever_the_users_pipeline_is(tmp_path, monkeypatch, deps):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path / "made")
    linked = linked_parts(tmp_path, made)
    (tmp_path / "dvc.yaml").write_text(deps)
    assert f"{linked}/txt -> {made}/txt" in unwatched(linked, "corpus")
    (tmp_path / "dvc.yaml").write_text(f"stages: {{corpus: {{deps: [{{elsewhere: {{}}}}, {made}]}}}}")
    assert unwatched(linked, "corpus") is None


def test_dvc_sees_links_to_elsewhere_in_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path / "made")
    (tmp_path / "dvc.yaml").write_text("stages: {corpus: {deps: ['${data.path}']}}")
    (made / "pcd/0000").rename(made / "clouds")
    (made / "pcd/0000").symlink_to("../clouds")
    link = whole_link(tmp_path, made)
    assert inner_links(link) == [link / "pcd/0000"]
    assert unwatched(made, "corpus") is unwatched(link, "corpus") is None
    (made / "clouds").rename(tmp_path / "clouds")
    (made / "pcd/0000").unlink()
    (made / "pcd/0000").symlink_to(tmp_path / "clouds")
    assert "pcd/0000 ->" in unwatched(link, "corpus")


def test_dvc_sees_no_change_behind_a_link_below_the_folder_that_it_watches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path / "made")
    (tmp_path / "dvc.yaml").write_text("stages: {transfer: {deps: ['${transfer.path}']}}")
    link = one_down(tmp_path, made) / "Omni-CAD"
    assert unwatched(link, "transfer") is None
    assert f"{link} -> {made}" in unwatched(link, "transfer", above=tmp_path / "raw")
    link.unlink()
    made.rename(link)
    assert unwatched(link, "transfer", above=tmp_path / "raw") is None
