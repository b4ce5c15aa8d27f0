"""Measure a network on a data set, as COCO or Darknet does.

python eval.py --cfg yolov4.cfg --weights yolov4.weights --data coco/                    AP50, AP, every class, speed
python eval.py --cfg yolov4.cfg --weights yolov4.weights --data coco/ --protocol darknet  mAP@0.5 as `detector map`
python eval.py --weights best.pt --data my.yaml --plots plots                            and pictures of what went wrong
python eval.py --data coco/annotations/instances_val2017.json --results detections.json  results of any detector
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be measured is refused before the imports below: torch takes seconds
    from evaluation.flags import EvalFlags, preview_evaluation
    from utils import cli

    cli.attempt(preview_evaluation)

from collections.abc import Sequence

from evaluation import classification
from evaluation.coco_files import read_tables, truth_file
from evaluation.detection import evaluate_network, load_classes, measure_of, settings_of
from evaluation.flags import parse_eval_flags
from evaluation.report import report, report_metrics
from models import describe_network, load_network
from utils import cli
from utils.cfg import with_size
from utils.cfg.classifier import is_classifier
from utils.distributed import World, join_world


def main(argv: Sequence[str]) -> None:
    """Run an evaluation from its flags to its table."""
    args = parse_eval_flags(argv)
    with join_world() as world:
        run(args, world)


def run(args: EvalFlags, world: World) -> None:
    """Run the evaluation ``args`` ask for; the processes of ``world`` share the images."""
    for path in (args.json, args.save_results):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if args.results is not None:
        if world.is_main:
            tables = read_tables(truth_file(args.data, args.split), args.results)
            report_metrics(measure_of(args)(*tables), args.json)
        return
    device = world.device(args.device)
    config, own_names = describe_network(args.cfg, args.weights)
    if args.size is not None:
        config = with_size(config, args.size)
    if is_classifier(config):
        classification.measure_from_flags(args, config, own_names, device, world)
        return
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    dataset = load_classes(args, network)
    evaluation = evaluate_network(network, dataset, settings_of(args, device), measure=measure_of(args), world=world)
    if world.is_main:
        report(evaluation, dataset, args)


if __name__ == "__main__":
    cli.run(main)
