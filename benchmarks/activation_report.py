"""The table of all studies of activations: scores with intervals, differences paired by seed, what a step costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.activation_plots import draw_studies
from benchmarks.activation_runs import REFERENCE, StepCosts, Study, studies_below
from benchmarks.intervals import Estimate, differences, estimate
from benchmarks.tables import Report, table
from training.log import metric_title

LAST_PART = 10  # the loss is the mean over this part of the iterations, the last
PREAMBLE = f"""\
The runs of a study differ in activation and seed alone: a seed gives each activation the same first weights, images
and augmentation. Scores are of the averaged weights after the last iteration; mean ± half of the 95 % interval
(Student's t over the seeds). Differences are {REFERENCE} minus the other, of runs with the same seed, with their 95 %
interval: one that holds 0 decides nothing. The loss is the mean over the last tenth of the iterations; less is better.
"""


def write_report(parent: Path, path: Path, picture: Path) -> None:
    """Write the table and draw the picture of the studies below ``parent``."""
    studies = list(studies_below(parent))
    report = Report(path, "What an activation is worth")
    report.add(PREAMBLE)
    for study in studies:
        report.add(section(study))
    draw_studies([study for study in studies if study.metrics()], picture)


def section(study: Study) -> str:
    """Everything about one study."""
    finished = sum(len(study.histories(activation)) for activation in study.activations)
    wanted = len(study.activations) * len(study.seeds)
    parts = [
        f"## {study.title}\n",
        f"`{study.command}`: {finished} of {wanted} trainings finished.\n",
        scores(study) if finished else "Not run.\n",
        compared(study) if finished else "",
        step_costs(study.step_costs()),
    ]
    return "\n".join(part for part in parts if part)


def scores(study: Study) -> str:
    """A line for each activation."""
    names, rows = study.metrics(), []
    for activation in study.activations:
        histories = study.histories(activation)
        if histories:
            found = [estimate([*study.scores(activation, name).values()]) for name in names]
            loss = estimate([last_loss(rows) for rows in histories.values()])
            rows.append((activation, len(histories), *(each.text() for each in found), loss.text()))
    return table(("activation", "seeds", *map(metric_title, names), "loss"), rows)


def compared(study: Study) -> str:
    """A line for each activation that the reference is compared with; empty where no two runs share a seed."""
    names, rows = study.metrics(), []
    for other in study.activations:
        found = [*(difference(study, other, name) for name in names), loss_difference(study, other)]
        if None not in found:
            rows.append((f"{REFERENCE} - {other}", found[0].count, *(each.text(signed=True) for each in found)))
    return table(("difference", "seeds", *map(metric_title, names), "loss"), rows) if rows else ""


def difference(study: Study, other: str, metric: str) -> Estimate | None:
    """What the reference has more of ``metric`` than ``other``; None without runs of the same seed."""
    found = differences(study.scores(REFERENCE, metric), study.scores(other, metric)) if other != REFERENCE else []
    return estimate(found) if found else None


def loss_difference(study: Study, other: str) -> Estimate | None:
    """How much higher the reference's last loss is than that of ``other``; None without runs of the same seed."""
    first, second = (
        {seed: last_loss(rows) for seed, rows in study.histories(activation).items()}
        for activation in (REFERENCE, other)
    )
    found = differences(first, second) if other != REFERENCE else []
    return estimate(found) if found else None


def last_loss(rows: Sequence[Mapping[str, float]]) -> float:
    """The mean loss over the last part of a training."""
    losses = [row["loss"] for row in rows if "loss" in row]
    return statistics.mean(losses[-max(1, len(losses) // LAST_PART) :])


def step_costs(costs: StepCosts | None) -> str:
    """Time and memory of a training step, also relative to the first activation; empty where not measured."""
    if costs is None:
        return ""
    first = next(iter(costs.each))
    base_seconds, base_peak = costs.each[first]
    rows = [
        (activation, f"{1e3 * seconds:.0f}", f"{peak:.0f}", f"{seconds / base_seconds:.2f}", f"{peak / base_peak:.2f}")
        for activation, (seconds, peak) in costs.each.items()
    ]
    header = ("activation", "ms", "peak MiB", f"time, {first} = 1", f"memory, {first} = 1")
    return f"A training step, fused operators, measured in turns ({costs.kind}):\n\n" + table(header, rows)
