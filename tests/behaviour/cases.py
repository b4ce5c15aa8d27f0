"""The cases: trainings of every kind, what becomes of their networks, what is said of data and what is refused."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.behaviour.digests import EVENTS, Digests
from tests.behaviour.programs import Place, ProgramFailed

MACHINE = "machine"  # the case that says where digests come from; its values are texts

_EXACT = "train.py --device cpu --precision fp32 --seed 3"
_CELLS = f"{_EXACT} --cfg detector.cfg --data cells --out run --workers 0"
_TRICKS = "--sat 1 --dropblock .1 --dropblock-side 2 --sync-bn --subdivisions 2 --set burn_in=2"
_KEYS = "blur=5 gaussian_noise=20 mosaic_bound=1 try_fix_nan=1 num_sigmas_reject_badlabels=2 equidistant_point=4"

# Trainings: the command lines of a case, run one after the other.
TRAININGS = {
    "detector": [f"{_CELLS} --iterations 24 --eval-interval 8 --mosaic .5 --workers 1"],
    "taught": [f"{_CELLS} --iterations 150 --eval-interval 50 --mosaic .2 --recipe darknet --set burn_in=10"],
    "plain": ["train.py --cfg yolov4-tiny-mish.cfg --data cells --size 96 --iterations 4 --workers 1"],
    "deep": [f"{_EXACT} --cfg deep.cfg --data cells --out run --workers 0 --iterations 8 --eval-interval 4"],
    "scaled": [f"{_CELLS} --iterations 12 --eval-interval 6 --recipe scaled"],
    "balanced": [f"{_CELLS} --iterations 20 --eval-interval 10 --recipe balanced --cache memory --workers 1"],
    "simota": [
        f"{_CELLS} --iterations 8 --recipe scaled --loss simota --optimizer adamw --set learning_rate=.001 --mixup .3 "
        "--copy-paste .5 --shear 8 --mosaic .5 --flip-vertical --photometric default --clip-gradient 10 --best-by ap "
        "--cache disk --no-scan --letterbox"
    ],
    "tricks": [
        f"{_CELLS} --iterations 12 --eval-interval 6 {_TRICKS} --cbn --mixup .3 --ema off "
        + " ".join(f"--set {key}" for key in _KEYS.split())
    ],
    "sizes": [
        f"{_CELLS} --iterations 24 --eval-interval 0 --set yolo.random=1 --set dynamic_minibatch=1 --set adam=1 "
        "--set policy=poly --set learning_rate=.001 --activation swish --close-jitter .3 --no-scan"
    ],
    "heads": [
        f"{_EXACT} --cfg heads.cfg --data cells-texts/cells.data --out run --workers 0 --iterations 10 "
        "--eval-interval 5"
    ],
    "classifier": [
        f"{_EXACT} --cfg cifar.cfg --data shades --batch 24 --out run --iterations 12 --eval-interval 4 "
        "--set cutmix=1 --set mosaic=1 --workers 1"
    ],
}
PARALLEL = {  # as TRAININGS, by two processes
    "ranks": [f"{_CELLS} --iterations 8 --eval-interval 4 --precise-bn 8 --rank-timeout 600"],
    "ranks-tricks": [f"{_CELLS} --iterations 8 --eval-interval 4 {_TRICKS} --rank-timeout 600"],
}
REFUSED = {  # command lines by the exit code they must have
    "train.py --cfg detector.cfg --no-such-flag": 2,
    "train.py --data cells": 2,
    "train.py --cfg no-such.cfg": 3,
    "train.py --cfg detector.cfg --set lerning_rate=1": 3,
    "train.py --cfg detector.cfg --data cells --weights taught/best.weights --set channels=1": 3,
    "train.py --cfg detector.cfg --data nowhere --device cpu": 3,
    "train.py --resume nowhere": 3,
    "eval.py --weights taught/best.pt --data cells --protocol recall --plots plots": 2,
    "eval.py --weights taught/best.pt --data shades --device cpu": 3,
    "detect.py --weights taught/best.weights --source cells/val": 2,
    "detect.py --weights taught/best.pt --source nowhere.mp4": 3,
    "detect.py --weights taught/best.pt --source cells/val --classes violet --device cpu": 2,
    "export.py --weights taught/best.pt": 2,
    "export.py anchors --data cells --num 0": 2,
}


class Bench:
    """The cases of one source tree, each run once, in folders below ``work``."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work
        self._digests: dict[str, Digests | ProgramFailed] = {}

    def digests(self, name: str) -> Digests:
        """What case ``name`` computes.

        Raises:
            ProgramFailed: a program ended otherwise than the case expects.
        """
        if name not in self._digests:
            try:
                self._digests[name] = CASES[name](self, Place(self.root, self.work / name))
            except ProgramFailed as failure:
                self._digests[name] = failure
        found = self._digests[name]
        if isinstance(found, ProgramFailed):
            raise found
        return found

    def run_folder(self, name: str) -> Path:
        """The run folder that the training ``name`` left."""
        self.digests(name)
        return self.work / name / "run"


def machine(bench: Bench, place: Place) -> Digests:
    """Processor and versions: where they differ all else may."""
    packages = ("torch", "torchvision", "numpy", "opencv-python", "av", "albumentations", "optuna", "matplotlib")
    cpu = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpu.read_text() if cpu.exists() else "", re.MULTILINE)
    processor = {"processor": models[0] if models else platform.processor(), "python": platform.python_version()}
    return processor | {package: version(package) for package in packages}


def training(name: str) -> Callable[[Bench, Place], Digests]:
    """The case that runs the lines of a training, in one process or in two."""

    def case(bench: Bench, place: Place) -> Digests:
        for line in TRAININGS.get(name, ()):
            place.run(line)
        for line in PARALLEL.get(name, ()):
            place.run(line, ranks=2)
        return place.digests()

    return case


def resumed(name: str) -> Callable[[Bench, Place], Digests]:
    """The case that stops the training ``name`` and goes on with it: its files must be those of the unbroken run."""

    def case(bench: Bench, place: Place) -> Digests:
        unbroken = bench.digests(name)
        place.stop(TRAININGS[name][0], "run/metrics.jsonl")
        place.run("train.py --resume run --workers 0")
        found = {what: digest for what, digest in place.digests().items() if _regardless_of_the_stop(what)}
        differing = [
            what for what, digest in unbroken.items() if _regardless_of_the_stop(what) and found.get(what) != digest
        ]
        if differing:
            raise ProgramFailed(f"resumed it is not as the unbroken run: {', '.join(differing)}")
        return found

    return case


def _regardless_of_the_stop(what: str) -> bool:
    """Whether a digest does not depend on when the run was stopped, as what is printed and TensorBoard's files do."""
    return what.startswith("run/") and EVENTS not in what


def diverged(bench: Bench, place: Place) -> Digests:
    """A learning rate that no loss stays finite with: a second start, and the end."""
    place.run(f"{_CELLS} --iterations 12 --no-scan --save-interval 1 --set learning_rate=900 --set burn_in=0", code=5)
    return place.digests()


def tuned(bench: Bench, place: Place) -> Digests:
    """A search of two trials."""
    space = "--tune-space learning_rate,mosaic,loss,hue"
    place.run(f"{_CELLS} --iterations 6 --eval-interval 3 --no-scan --tune 2 {space}")
    return place.digests()


def checked(bench: Bench, place: Place) -> Digests:
    """The looks before a training at good data, spoilt data and a classifier's; what is learned by heart takes time."""
    place.run(f"{_EXACT} --cfg detector.cfg --data cells --check 0 --out pictures")
    place.lend(place.folder / "cells", "spoilt")
    shutil.copy(place.folder / "spoilt/train/03.png", place.folder / "spoilt/val/03.png")
    shutil.copy(place.folder / "spoilt/train/05.png", place.folder / "spoilt/train/06.png")
    (place.folder / "spoilt/train/07.png").write_text("no image")
    place.run(f"{_EXACT} --cfg detector.cfg --data spoilt --check 0 --set learning_rate=.3 --iterations 150", code=3)
    place.run(f"{_EXACT} --cfg cifar.cfg --data shades --check 0")
    return place.digests()


def fine_tuned(bench: Bench, place: Place) -> Digests:
    """Trainings that begin with the weights of others: a detector's, frozen in part, and a classifier's."""
    place.lend(bench.run_folder("taught"), "taught")
    place.lend(bench.run_folder("classifier"), "classifier")
    place.run(f"{_CELLS} --iterations 6 --weights taught/best.weights --freeze backbone --class-weights 1,2,4")
    again = f"{_EXACT} --cfg cifar.cfg --data shades --out again --iterations 4 --weights classifier/best.pt"
    place.run(f"{again} --workers 0 --freeze 3 --batch 8")
    return place.digests()


def evaluated(bench: Bench, place: Place) -> Digests:
    """The three protocols, what they write, a file of results, a classifier."""
    place.lend(bench.run_folder("taught"), "taught")
    place.lend(bench.run_folder("classifier"), "classifier")
    detector, cpu = "eval.py --weights taught/best.pt", "--device cpu --workers 0"
    place.run(f"{detector} --data cells {cpu} --json coco.json --save-results found.json --save-voc voc --plots plots")
    place.run("eval.py --data cells/instances_val.json --results found.json --json again.json --backend pycocotools")
    weights = "eval.py --cfg taught/network.cfg --weights taught/best.weights"
    place.run(f"{weights} --data cells-texts/cells.data {cpu} --protocol darknet --points 11 --json darknet.json")
    place.run(f"{detector} --data cells-texts/cells.yaml {cpu} --protocol recall --letterbox --json recall.json")
    place.run(f"eval.py --weights classifier/best.pt --data shades {cpu} --json classifier.json")
    place.run(f"{detector} --data cells --split train --batch 3 {cpu} --precision bf16 --json ranks.json", ranks=2)
    return place.digests()


def detected(bench: Bench, place: Place) -> Digests:
    """Objects in images and in a video, and what a classifier says."""
    place.lend(bench.run_folder("taught"), "taught")
    place.lend(bench.run_folder("classifier"), "classifier")
    detector = "detect.py --weights taught/best.pt --device cpu --score-threshold .05 --max-detections 3"
    reports = "--json images.json --csv images.csv --save-txt --save-crops --out images"
    place.run(f"{detector} --source cells/val {reports} --batch 2 --letterbox")
    place.run(f"{detector} --source clip.avi --json clip.json --out clip --classes red 1 --size 64x128")
    place.run("detect.py --weights classifier/best.pt --source 'shades/val/red/*.png' --json shades.json --device cpu")
    return place.digests()


def exported(bench: Bench, place: Place) -> Digests:
    """Weights for Darknet, a backbone, and anchors that fit."""
    place.lend(bench.run_folder("taught"), "taught")
    place.run("export.py --weights taught/last.pt --weights-out whole/cells.weights")
    place.run("export.py partial --weights taught/best.pt --layers 9 --out cells.conv.9")
    place.run("export.py anchors --data cells --cfg detector.cfg --out fitted.cfg --plot anchors.png --letterbox")
    place.run("export.py anchors --data cells-texts/cells.yaml --num 5 --size 128 --seed 1")
    return place.digests()


def sampled(bench: Bench, place: Place) -> Digests:
    """A few pictures of the built-in data set."""
    place.run("data.sample --out sample --train 2 --val 1")
    return place.digests()


def refused(bench: Bench, place: Place) -> Digests:
    """What is said of command lines and files that are wrong, and every --help."""
    place.lend(bench.run_folder("taught"), "taught")
    for line, code in REFUSED.items():
        place.run(line, code=code)
    for script in ("train.py", "eval.py", "detect.py", "export.py", "export.py partial", "export.py anchors"):
        place.run(f"{script} --help")
    return place.digests()


CASES: dict[str, Callable[[Bench, Place], Digests]] = {
    MACHINE: machine,
    **{name: training(name) for name in TRAININGS},
    **{name: training(name) for name in PARALLEL},
    "detector-resumed": resumed("detector"),
    "classifier-resumed": resumed("classifier"),
    "diverged": diverged,
    "tuned": tuned,
    "checked": checked,
    "fine-tuned": fine_tuned,
    "evaluated": evaluated,
    "detected": detected,
    "exported": exported,
    "sampled": sampled,
    "refused": refused,
}
