"""What an evaluation prints and writes: tables for people, json and results for programs, pictures of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.formats.dataset import Dataset
from evaluation.coco import CocoMetrics, coco_results
from evaluation.confusion import confusion_matrix, match_images
from evaluation.detection import Evaluation, Metrics
from evaluation.flags import EvalFlags
from evaluation.plots import plot_confusion, plot_mistakes, plot_precision_recall, worst_images
from evaluation.voc_results import save_voc_results
from utils.atomic import write_json
from utils.image import read_image

WORST = 12  # images drawn by --plots


def report_metrics(metrics: Metrics, path: Path | None) -> None:
    """Print the metrics of a results file, and write them to ``path``."""
    print(*metrics.lines(), sep="\n")
    if path is not None:
        write_json(path, metrics.as_dict())


def report(evaluation: Evaluation, dataset: Dataset, args: EvalFlags) -> None:
    """Print an evaluation and write the files that the flags of eval.py ask for."""
    print_evaluation(evaluation)
    if args.json is not None:
        write_json(args.json, summary(evaluation, args))
    if args.save_results is not None:
        write_json(args.save_results, coco_results(evaluation.detections, dataset.category_ids))
    if args.save_voc is not None:
        save_voc_results(args.save_voc, dataset.records, evaluation.detections, dataset.names)
    if args.plots is not None:
        save_plots(evaluation, dataset, args.plots)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print metrics and speed for people."""
    print(*evaluation.metrics.lines(), sep="\n")
    speed = evaluation.speed
    print(
        f"\nper image: loading {speed.loading:.1f} ms, network {speed.network:.1f} ms, "
        f"post-processing {speed.postprocess:.1f} ms; {speed.images_per_second:.1f} images/s"
    )


def summary(evaluation: Evaluation, args: EvalFlags) -> dict[str, Any]:
    """The flat object of ``--json``."""
    return {
        **evaluation.metrics.as_dict(),
        "images": len(evaluation.detections),
        "images_per_second": evaluation.speed.images_per_second,
        "score_threshold": args.score_threshold,
        "nms_threshold": args.nms_threshold,
        "max_detections": args.max_detections,
    }


def save_plots(evaluation: Evaluation, dataset: Dataset, folder: Path) -> None:
    """Write precision_recall.png, confusion.png and the images with most mistakes, worst_01.png first."""
    folder.mkdir(parents=True, exist_ok=True)
    assert isinstance(evaluation.metrics, CocoMetrics)  # --plots goes with no other protocol
    plot_precision_recall(evaluation.metrics, folder / "precision_recall.png")
    matches = match_images(dataset.records, evaluation.detections)
    plot_confusion(confusion_matrix(matches, len(dataset.names)), dataset.names, folder / "confusion.png")
    for rank, image in enumerate(worst_images(matches, WORST), start=1):
        plot_mistakes(image, read_image(image.record.path), dataset.names, folder / f"worst_{rank:02}.png")
    print(f"plots: {folder}")
