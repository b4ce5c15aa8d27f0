"""The two sides of a training: images to learn from, and images to measure on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data.formats.class_folders import load_labelled
from data.formats.dataset import Dataset, load_dataset
from data.sample import ensure_sample
from data.scan import scan
from utils.image import printable
from utils.names import read_names


class Splits(NamedTuple):
    """The images a network learns from, and those it is measured on."""

    train: Dataset
    val: Dataset


def find_data(path: str | None) -> str:
    """The ``--data`` of a run: ``path``, or the built-in sample, drawn on first use."""
    if path is not None:
        return path
    sample = str(ensure_sample())
    print(f"no --data given: training on the built-in sample data set in {sample}")
    return sample


def load_splits(path: str, *, names: str | None, check: bool, workers: int, labelled: bool = False) -> Splits:
    """The training and the validation images.

    Args:
        path: what ``--data`` names.
        names: a file of class names to use in place of the data set's own.
        check: look at every image and box first; what cannot be used is printed and left out.
        workers: threads that do it.
        labelled: images of a classifier, each with one class and no boxes.
    """
    load = load_labelled if labelled else load_dataset
    given = read_names(names) if names else None
    train_set = load(Path(path), "train", names=given)
    splits = Splits(train_set, load(Path(path), "val", names=train_set.names))
    return Splits(*(_checked(dataset, workers, labelled) for dataset in splits)) if check else splits


def _checked(dataset: Dataset, workers: int, labelled: bool) -> Dataset:
    """The data set without the images that cannot be used, which are printed."""
    report = scan(dataset, workers=workers, progress=True)
    head, *faults = report.lines()
    if labelled:  # there are no boxes to count
        head = f"{printable(dataset.source)}: {len(dataset):,} images of {len(dataset.names):,} classes"
    print(head, *faults, sep="\n")
    return report.dataset
