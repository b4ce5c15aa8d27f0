"""Download COCO 2017 into a folder that train.py and eval.py take as --data.

    python -m data.get_coco --split val
    python -m data.get_coco --out datasets/coco

An interrupted download goes on where it stopped; what is already there is not fetched again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.get_coco.archive import extract
from data.get_coco.download import Remote, download
from utils.cli import Parser, run
from utils.errors import UsageError

OFFICIAL = "http://images.cocodataset.org"
_SPLITS = ("train", "val")
# Sizes and SHA-256 of the files as the official server has served them since 2017.
_ANNOTATIONS = (
    "annotations/annotations_trainval2017.zip",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
_IMAGES = {
    "train": (
        "zips/train2017.zip",
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val": (
        "zips/val2017.zip",
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
}
_IMAGE_COUNTS = {"train": 118_287, "val": 5_000}


@dataclass(frozen=True)
class Archive:
    """A zip file and what is wanted from it.

    Attributes:
        remote: where it lies, and how to tell that it is whole.
        inside: folder in the zip, and the name it gets here.
        names: files wanted from that folder; empty: all.
        count: how many files the folder has when it is complete.
    """

    remote: Remote
    inside: str
    names: tuple[str, ...]
    count: int

    def is_unpacked(self, folder: Path) -> bool:
        """Whether everything wanted lies below ``folder``."""
        here = folder / self.inside
        if self.names:
            return all((here / name).is_file() for name in self.names)
        return here.is_dir() and sum(1 for _ in here.glob("*.jpg")) >= self.count


def archives(splits: Sequence[str], address: str = OFFICIAL) -> list[Archive]:
    """What ``splits`` need: the annotations first, then the images."""
    path, size, sha256 = _ANNOTATIONS
    names = tuple(f"instances_{split}2017.json" for split in splits)
    wanted = [Archive(Remote(f"{address}/{path}", size, sha256), "annotations", names, len(names))]
    for split in splits:
        path, size, sha256 = _IMAGES[split]
        wanted.append(Archive(Remote(f"{address}/{path}", size, sha256), f"{split}2017", (), _IMAGE_COUNTS[split]))
    return wanted


def fetch(wanted: Sequence[Archive], folder: Path, *, keep_zips: bool = False, progress: bool = True) -> None:
    """Download and unpack what is not yet in ``folder``.

    Raises:
        EnvironmentFault: network or disk; a second call goes on.
        InputError: what came is not what was wanted.
    """
    for archive in wanted:
        if archive.is_unpacked(folder):
            continue
        # A JPEG does not shrink in a zip, so the images take their archive's size once more.
        reserve = 0 if archive.names else archive.remote.size
        path = download(archive.remote, folder, progress=progress, reserve=reserve)
        extract(path, archive.inside, folder / archive.inside, names=archive.names, progress=progress)
        if not keep_zips:
            path.unlink()


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what the flags ask for and say what to run next."""
    parser = Parser(prog="python -m data.get_coco", description="Download COCO 2017: 20 GB, or 1 GB with --split val.")
    parser.add_argument("--out", type=Path, default=Path("datasets/coco"), help="folder (default %(default)s)")
    parser.add_argument("--split", nargs="+", choices=_SPLITS, default=list(_SPLITS), help="default: both")
    parser.add_argument("--keep-zips", action="store_true", help="do not delete the archives once unpacked")
    parser.add_argument("--address", default=OFFICIAL, help="another server with the same files")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    if not args.address.startswith(("http://", "https://")):
        raise UsageError(f"--address {args.address}: no web address (wanted http://... or https://...)")
    fetch(archives(sorted(set(args.split)), args.address.rstrip("/")), args.out, keep_zips=args.keep_zips)
    script = "train.py" if "train" in args.split else "eval.py"
    print(f"COCO 2017 {' and '.join(sorted(set(args.split)))} in {args.out}; next: python {script} --data {args.out}")


if __name__ == "__main__":
    run(main)
