"""The COCO downloader as a whole, against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.formats.dataset import load_dataset
from data.get_coco import __main__ as get_coco
from data.get_coco.__main__ import Archive, archives, fetch
from data.get_coco.download import Remote
from tests.local_server import Site, serve
from utils.errors import EnvironmentFault, InputError, UsageError

ROOT = Path(__file__).resolve().parents[1]


def annotations(name: str) -> str:
    box = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}
    image = {"id": 7, "file_name": name, "width": 32, "height": 24}
    return json.dumps({"images": [image], "annotations": [box], "categories": [{"id": 3, "name": "thing"}]})


def zip_bytes(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A COCO of one image in each split, and the table that goes with it."""
    jpeg = cv2.imencode(".jpg", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()
    splits = ("train", "val")
    names = [f"annotations/{kind}_{split}2017.json" for kind in ("instances", "captions") for split in splits]
    files = {
        "/annotations/annotations_trainval2017.zip": zip_bytes(dict.fromkeys(names, annotations("7.jpg"))),
        "/zips/train2017.zip": zip_bytes({"train2017/": "", "train2017/7.jpg": jpeg}),
        "/zips/val2017.zip": zip_bytes({"val2017/": "", "val2017/7.jpg": jpeg}),
    }

    def entry(path: str) -> tuple[str, int, str]:
        content = files[f"/{path}"]
        return path, len(content), hashlib.sha256(content).hexdigest()

    monkeypatch.setattr(get_coco, "_ANNOTATIONS", entry("annotations/annotations_trainval2017.zip"))
    monkeypatch.setattr(get_coco, "_IMAGES", {split: entry(f"zips/{split}2017.zip") for split in splits})
    monkeypatch.setattr(get_coco, "_IMAGE_COUNTS", {"train": 1, "val": 1})
    with serve(Site(files)) as running:
        yield running


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_both_splits_load_as_a_data_set(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_coco.main(["--out", str(tmp_path / "coco"), "--address", site.address + "/"])
    jsons = ["annotations/instances_train2017.json", "annotations/instances_val2017.json"]
    assert listing(tmp_path / "coco") == [*jsons, "train2017/7.jpg", "val2017/7.jpg"]
    for split in ("train", "val"):
        data = load_dataset(tmp_path / "coco", split)
        assert [record.path.parent.name for record in data.records] == [f"{split}2017"]
    assert f"next: python train.py --data {tmp_path / 'coco'}" in capsys.readouterr().out


def test_a_second_run_fetches_only_what_is_missing(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--address", site.address, "--split"]
    get_coco.main([*arguments, "val"])
    assert listing(tmp_path) == ["annotations/instances_val2017.json", "val2017/7.jpg"]
    assert "next: python eval.py" in capsys.readouterr().out
    assert len(site.requests) == 2
    get_coco.main([*arguments, "val"])
    assert len(site.requests) == 2
    get_coco.main([*arguments, "train", "val", "val"])
    assert len(site.requests) == 4
    (tmp_path / "train2017" / "7.jpg").unlink()
    get_coco.main([*arguments, "train"])
    assert len(site.requests) == 5 and "train2017/7.jpg" in listing(tmp_path)


def test_zips_are_kept_on_request(site: Site, tmp_path: Path) -> None:
    get_coco.main(["--out", str(tmp_path), "--address", site.address, "--split", "val", "--keep-zips"])
    assert {"annotations_trainval2017.zip", "val2017.zip"} <= set(listing(tmp_path))


def test_an_interruption_anywhere_is_mended_by_a_second_run(site: Site, tmp_path: Path) -> None:
    wanted = archives(["val"], site.address)
    site.statuses = [404]
    with pytest.raises(EnvironmentFault, match="404"):
        fetch(wanted, tmp_path, progress=False)
    (tmp_path / "val2017.zip.part").write_bytes(site.files["/zips/val2017.zip"][:50])
    fetch(wanted, tmp_path, progress=False)
    assert site.requests[-1] == "bytes=50-"
    assert listing(tmp_path) == ["annotations/instances_val2017.json", "val2017/7.jpg"]


def test_a_zip_with_the_right_sum_but_the_wrong_content_is_an_input_error(site: Site, tmp_path: Path) -> None:
    content = site.files["/zips/val2017.zip"]
    remote = Remote(f"{site.address}/zips/val2017.zip", len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError, match="no file in test2017/"):
        fetch([Archive(remote, "test2017", (), 1)], tmp_path, progress=False)


def test_an_address_must_be_one() -> None:
    with pytest.raises(UsageError, match=r"--address ftp://x: no web address \(wanted http"):
        get_coco.main(["--address", "ftp://x"])


def test_the_official_table() -> None:
    annotation, train, val = archives(["train", "val"])
    assert annotation.remote.url == "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
    assert train.remote.url == "http://images.cocodataset.org/zips/train2017.zip"
    assert (train.remote.size, train.count) == (19_336_861_798, 118_287)
    assert (val.remote.size, val.count) == (815_585_330, 5_000)
    assert {len(bytes.fromhex(item.remote.sha256)) for item in (annotation, train, val)} == {32}


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    with serve(Site({})) as empty:
        arguments = ["--out", str(tmp_path), "--address", empty.address, "--split", "val"]
        done = subprocess.run(
            [sys.executable, "-m", "data.get_coco", *arguments], cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode == 4
    assert done.stderr.startswith("yolov4: error: http://127.0.0.1") and "404" in done.stderr
    assert len(done.stderr.splitlines()) == 1
