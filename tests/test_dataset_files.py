"""Darknet's .data files and Ultralytics-style yaml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.formats.dataset_files import read_data_file, read_yaml
from utils.errors import DatasetError, InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root: Path, name: str, text: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names(images: tuple[Path, ...]) -> list[str]:
    return [path.name for path in images]


@pytest.fixture
def darknet(tmp_path: Path) -> Path:
    """A .data file with lists of two and one images."""
    touch(tmp_path, "img/b.jpg", "img/a b.jpg", "img/v.png")
    write(tmp_path, "lists/train.txt", "../img/b.jpg\r\n../img/a b.jpg\n\n")
    write(tmp_path, "lists/val.txt", "img/v.png")  # from the .data file's folder
    write(tmp_path, "obj.names", "cat\ndog\n\n")
    text = "# comment\nclasses= 2\ntrain = lists/train.txt\nvalid=lists/val.txt\ntrain=second\nnames=obj.names\n"
    return write(tmp_path, "obj.data", text)


def test_data_file(darknet: Path) -> None:
    train, val = read_data_file(darknet, "train"), read_data_file(darknet, "val")
    assert train.names == val.names == ("cat", "dog")
    assert names(train.images) == ["b.jpg", "a b.jpg"] and names(val.images) == ["v.png"]
    assert all(path.is_file() for path in (*train.images, *val.images))


def test_paths_from_the_current_folder(darknet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Darknet's own .data files hold paths from where darknet is started
    write(tmp_path, "cfg/obj.data", "classes=2\ntrain=lists/train.txt\nnames=obj.names")
    write(tmp_path, "lists/train.txt", "img/b.jpg")
    monkeypatch.chdir(tmp_path)
    listed = read_data_file(Path("cfg/obj.data"), "val")  # valid is missing: the training images
    assert names(listed.images) == ["b.jpg"]


def test_missing_images_are_left_to_the_scan(darknet: Path, tmp_path: Path) -> None:
    write(tmp_path, "lists/train.txt", "../img/b.jpg\ngone.jpg")
    assert names(read_data_file(darknet, "train").images) == ["b.jpg", "gone.jpg"]
    write(tmp_path, "lists/train.txt", "gone.jpg\ngone too.jpg")
    with pytest.raises(DatasetError, match=r"train\.txt:1: none of its 2 images is there; looked for .*gone\.jpg"):
        read_data_file(darknet, "train")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.jpg")
    touch(tmp_path, odd)
    write(tmp_path, "n.names", "x")
    write(tmp_path, "t.txt", b"caf\xe9.jpg\n")
    data = write(tmp_path, "o.data", "train=t.txt\nnames=n.names")
    assert names(read_data_file(data, "train").images) == [odd]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train", r"o\.data:1: 'train' \(wanted key=value\)"),
        ("names=n.names", "no 'train'"),
        ("train=t.txt", "no 'names'"),
        ("train=t.txt\nnames=n.names\nclasses=two", "classes='two' .wanted a whole number"),
        ("train=t.txt\nnames=n.names\nclasses=3", "classes=3 beside 1 names .wanted as many"),
        ("train=t.txt\nnames=gone.names", r"gone\.names: no such names file"),
        ("train=gone.txt\nnames=n.names", "'gone.txt': no such folder or list file; looked for .*gone.txt"),
        ("train=empty.txt\nnames=n.names", r"empty\.txt: no images in it"),
        ("train=nul.txt\nnames=n.names", r"nul\.txt: holds NUL bytes"),
        (b"train=\xff", r"o\.data: not UTF-8 text"),
        ("#" * (2 << 20), r"o\.data: 2,097,152 bytes"),
    ],
)
def test_wrong_data_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    touch(tmp_path, "a.jpg", "empty.txt")
    write(tmp_path, "n.names", "x")
    write(tmp_path, "t.txt", "a.jpg")
    write(tmp_path, "nul.txt", "a\0.jpg")
    with pytest.raises(InputError, match=message):
        read_data_file(write(tmp_path, "o.data", text), "train")


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.data: cannot be read: No such file"):
        read_data_file(tmp_path / "gone.data", "train")


def test_yaml_with_folders(tmp_path: Path) -> None:
    touch(tmp_path, "set/images/train/b.jpg", "set/images/train/deep/a.PNG", "set/images/val/v.webp")
    touch(tmp_path, "set/images/train/notes.txt")
    (tmp_path / "set/images/train/loop").symlink_to(tmp_path / "set" / "images")
    os.mkfifo(tmp_path / "set/images/train/pipe.jpg")
    text = "path: set\ntrain: images/train\nval: images/val\nnc: 2\nnames: {1: dog, 0: cat}\n"
    listed = read_yaml(write(tmp_path, "d.yaml", text), "train")
    assert listed.names == ("cat", "dog")
    assert sorted(names(listed.images))[:2] == ["a.PNG", "b.jpg"]
    assert len([name for name in names(listed.images) if name == "b.jpg"]) == 1
    assert "pipe.jpg" not in names(listed.images) and "notes.txt" not in names(listed.images)
    assert list(listed.images) == sorted(listed.images)
    assert names(read_yaml(tmp_path / "d.yaml", "val").images) == ["v.webp"]


def test_yaml_with_lists(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg", "c.jpg")
    write(tmp_path, "list.txt", "./two/b.jpg\n")
    text = "train: [one, list.txt, c.jpg]\nval: one\nnames: [cat, 7]"
    listed = read_yaml(write(tmp_path, "d.yaml", text), "train")
    assert names(listed.images) == ["a.jpg", "b.jpg", "c.jpg"] and listed.names == ("cat", "7")


def test_yaml_of_roboflow(tmp_path: Path) -> None:
    touch(tmp_path, "train/images/a.jpg")
    listed = read_yaml(write(tmp_path, "data.yaml", "train: ../train/images\nnames: [x]"), "train")
    assert names(listed.images) == ["a.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "a yaml list"),
        ("{", "not yaml"),
        ("names: [x]", r"train=None \(wanted a folder"),
        ("train: [a, 3]\nnames: [x]", r"train=\['a', 3\]"),
        ("train: gone\nnames: [x]", "'gone': no such folder"),
        ("train: a\npath: 3\nnames: [x]", "path=3"),
        ("train: a", "names=None"),
        ("train: a\nnames: []", r"names=\[\]"),
        ("train: a\nnames: {0: x, 2: y}", r"names has the keys \[0, 2\]"),
        ("train: a\nnames: [x]\nnc: 2", "nc=2 beside 1 names .wanted as many"),
        ("train: a\nnames: [x]\nnc: many", "nc='many'"),
        ("train: bare\nnames: [x]", r"bare: no images in it"),
        ("train: !!python/object/apply:os.system ['true']", "not yaml: could not determine a constructor"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a/x.jpg", "bare/readme")
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(write(tmp_path, "d.yaml", text), "train")
    assert "\n" not in str(caught.value)


def test_dangling_link(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "y.jpg").symlink_to("nowhere")
    with pytest.raises(DatasetError, match=r"y\.jpg: cannot be read: No such file"):
        read_yaml(write(tmp_path, "d.yaml", "train: a\nnames: [x]"), "train")
