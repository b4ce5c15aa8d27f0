"""The class hierarchy of YOLO9000, on a tree small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.heads.class_tree import ClassTree, find_class_file, read_class_map, read_class_tree
from utils.errors import CfgError

# animal    -> dog -> (terrier, hound), cat
# thing     -> (cup)
TREE = "animal -1\nthing -1\ndog 0\ncat 0\ncup 1\nterrier 2\nhound 2\n"


@pytest.fixture
def tree(tmp_path: Path) -> ClassTree:
    (tmp_path / "my.tree").write_text(TREE)
    return read_class_tree(tmp_path / "my.tree")


def test_who_is_whose_child(tree: ClassTree) -> None:
    assert tree.names == ("animal", "thing", "dog", "cat", "cup", "terrier", "hound")
    assert tree.parents.tolist() == [-1, -1, 0, 0, 1, 2, 2]
    assert tree.groups.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert tree.paths.tolist()[5:] == [[5, 2, 0], [6, 2, 0]]
    assert tree.paths.tolist()[4] == [4, 1, -1]
    assert len(tree) == 7


def test_brothers_compete(tree: ClassTree) -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 0.0, 50.0, -200.0, -199.0], [500.0, -500.0, 0, 0, 0, 0, 0]])
    probs = tree.softmax(logits)
    for members in ([0, 1], [2, 3], [4], [5, 6]):
        torch.testing.assert_close(probs[:, members], logits[:, members].softmax(-1))


def test_a_class_needs_its_ancestors(tree: ClassTree) -> None:
    probs = torch.tensor([0.8, 0.2, 0.9, 0.1, 1.0, 0.75, 0.25])
    wanted = [0.8, 0.2, 0.72, 0.08, 0.2, 0.54, 0.18]
    absolute = tree.absolute(probs)
    assert absolute.tolist() == pytest.approx(wanted)
    assert tree.most_specific(absolute, 0.5).tolist() == pytest.approx([0, 0, 0, 0, 0, 0.54, 0])
    assert tree.most_specific(absolute, 0.6).tolist() == pytest.approx([0, 0, 0.72, 0, 0, 0, 0])
    assert not tree.most_specific(absolute, 0.9).any()


def test_any_number_of_dimensions(tree: ClassTree) -> None:
    logits = torch.randn(2, 3, 4, 7)
    together = tree.absolute(tree.softmax(logits))
    torch.testing.assert_close(together[1, 2, 3], tree.absolute(tree.softmax(logits[1, 2, 3])))


def test_moves_to_a_device(tree: ClassTree) -> None:
    moved = tree.to(torch.device("meta"))
    assert {part.device.type for part in (moved.parents, moved.groups, moved.paths)} == {"meta"}
    assert len(moved) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"my.tree: no classes \(wanted a name and a parent on each line\)"),
        ("animal -1\n\n", r"my.tree:2: '' \(wanted a name and the line of its parent"),
        ("animal -1\ndog 1\n", r"my.tree:2: 'dog 1'"),
        ("animal -2\n", r"my.tree:1: 'animal -2'"),
        ("animal x\n", r"my.tree:1: 'animal x'"),
        ("animal -1 3\n", r"my.tree:1: 'animal -1 3'"),
        ("a -1\nb 99999999999999999999\n", r"my.tree:2: 'b 9999"),
    ],
)
def test_broken_trees(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.tree").write_text(text)
    with pytest.raises(CfgError, match=message):
        read_class_tree(tmp_path / "my.tree")


def test_a_class_without_a_parent_may_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "my.tree").write_text("animal\ndog 0\n")
    assert read_class_tree(tmp_path / "my.tree").parents.tolist() == [-1, 0]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CfgError, match=r"cannot be read: Is a directory"):
        read_class_tree(tmp_path)


def test_a_file_far_too_long(tmp_path: Path) -> None:
    with (tmp_path / "my.tree").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(CfgError, match=r"more than 16,777,216 bytes"):
        read_class_tree(tmp_path / "my.tree")


def test_a_map(tmp_path: Path) -> None:
    path = tmp_path / "my.map"
    path.write_text("5\n6\n0\n")
    assert read_class_map(path, 7).tolist() == [5, 6, 0]
    with pytest.raises(CfgError, match=r"my.map:2: '6' \(wanted a class from 0 to 5\)"):
        read_class_map(path, 6)
    path.write_text("")
    with pytest.raises(CfgError, match=r"my.map: no classes"):
        read_class_map(path, 6)


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the cfg, beside its folder (as in Darknet's own clone), in the working directory: in this order."""
    places = [tmp_path / "clone" / "cfg", tmp_path / "clone", tmp_path / "here"]
    for place in places:
        (place / "data").mkdir(parents=True)
        (place / "data" / "9k.tree").touch()
    monkeypatch.chdir(tmp_path / "here")
    source = str(tmp_path / "clone" / "cfg" / "yolo9000.cfg")
    for place in (*places[:2], Path()):
        found = find_class_file("data/9k.tree", source, "yolo9000.cfg:1: [region] tree=data/9k.tree")
        assert found == place / "data" / "9k.tree"
        found.unlink()
    with pytest.raises(CfgError, match=r"^yolo9000.cfg:1: \[region\] tree=data/9k.tree: no such file \(looked in "):
        find_class_file("data/9k.tree", source, "yolo9000.cfg:1: [region] tree=data/9k.tree")
