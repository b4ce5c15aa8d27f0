"""Measure Darknet's cfgs, every one, and write the table of docs/darknet.md.

python -m benchmarks.darknet_table --zoo ../zoo                              all of them; takes some ten minutes
python -m benchmarks.darknet_table --zoo ../zoo --only yolov4-tiny yolov7    these rows anew, the others as they are

A cfg is built at the smallest input its layers can take. "Differs" is the largest difference of a raw head from what
Darknet computed, for the cfgs of which tests/golden or DARKNET_GOLDEN has numbers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.darknet_cfgs import keeps_weights, learns, runs, smallest
from benchmarks.tables import machine, table
from models import load_network
from models.darknet import Darknet
from tests.golden_cases import FOLDER, forward_cases, write_weights
from utils.cfg import load_cfg
from utils.errors import CfgError, UserError

DOC = Path(__file__).resolve().parents[1] / "docs" / "darknet.md"
BEGIN, END = "<!-- cfgs -->\n", "<!-- end of cfgs -->\n"
HEADER = ("cfg", "layers", "parameters", "runs", "differs from Darknet by", "weights come back byte for byte", "learns")


def row_of(cfg: Path, name: str, golden: Sequence[str], folder: Path) -> list[str]:
    """The measurements of one cfg, as cells of the table."""
    config = load_cfg(cfg)
    torch.manual_seed(0)
    try:
        network = Darknet(smallest(config))
    except CfgError as refusal:
        return [name, str(len(config.layers)), "", refused(refusal, cfg), "", "", ""]
    differs = [f"{difference(case, folder):.1e}" for case in golden if case.rpartition("_")[0] == Path(name).stem]
    cells = [str(len(network.layers)), f"{network.graph.parameters:,}", said(runs(network)), ", ".join(differs)]
    try:
        learnt = said(learns(network))
    except UserError as refusal:
        learnt = refused(refusal, cfg)
    return [name, *cells, said(keeps_weights(network, folder)), learnt]


def refused(refusal: UserError, cfg: Path) -> str:
    """A message without the path of its cfg."""
    return f"refused: line {str(refusal).removeprefix(f'{cfg}:')}".replace(str(cfg.parent), "its folder")


def said(done: bool) -> str:
    return "yes" if done else "**no**"


def difference(case: str, folder: Path) -> float:
    """The largest difference of a raw head from Darknet's, for a golden forward case."""
    cfg, weights = FOLDER / "forward" / f"{case}.cfg", folder / "golden.weights"
    facts, arrays = json.loads(cfg.with_suffix(".json").read_text()), dict(np.load(cfg.with_suffix(".npz")))
    calib = arrays["calib"].astype(np.float32) if "calib" in arrays else None
    write_weights(FOLDER, cfg, weights, facts["weights_seed"], calib)
    network = load_network(cfg, weights, fuse=False)
    weights.unlink()
    with torch.inference_mode():
        raws = network(torch.from_numpy(arrays["input"]))
    heads = zip(network.heads, raws, strict=True)
    return max(float(np.abs(raw[0].numpy() - arrays[f"l{head.index}_pre"]).max()) for head, raw in heads)


def known_rows(text: str) -> dict[str, list[str]]:
    """The rows that stand in the table of ``text``, by name."""
    lines = text.partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row for row in cells[2:]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure cfg after cfg; the table is written after each, so that an interrupted run keeps its rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zoo", type=Path, required=True, help="folder of Darknet's cfgs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these, without .cfg")
    args = parser.parse_args(argv)
    rows = known_rows(DOC.read_text()) if args.only else {}
    for cfg in sorted(args.zoo.rglob("*.cfg")):
        name = str(cfg.relative_to(args.zoo).with_suffix(""))
        if args.only and cfg.stem not in args.only:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row_of(cfg, name, forward_cases(), Path(folder))
        print(f"{time.perf_counter() - start:6.1f} s  {' | '.join(rows[name])}", flush=True)
        text = DOC.read_text()
        before, rest = text.split(BEGIN)
        measured = f"Measured on {machine()}.\n\n{table(HEADER, [rows[name] for name in sorted(rows)])}"
        DOC.write_text(before + BEGIN + measured + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
