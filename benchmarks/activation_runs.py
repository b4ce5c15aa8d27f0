"""Studies of activations on disk: which trainings belong to one, and what they found."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.training_runs import Run, folder_name
from training.log import shown_metrics

ACTIVATIONS = ("leaky", "relu", "swish", "mish")
REFERENCE = "mish"  # what the others are compared with
_STUDY, _STEPS = "study.json", "steps.json"


@dataclass(frozen=True)
class StepCosts:
    """Time and memory of a training step.

    Attributes:
        kind: of the times, for people.
        each: seconds and peak MiB by activation.
    """

    kind: str
    each: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Study:
    """Trainings that differ in activation and seed alone.

    Attributes:
        parent: the folder that its own folder lies in.
        data: what ``train.py --data`` takes.
        iterations: of each training.
        flags: of train.py, the same for all; they begin with ``--cfg NAME``.
        activations, seeds: of the trainings, each with each.
    """

    parent: Path
    data: str
    iterations: int
    flags: tuple[str, ...]
    activations: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def cfg(self) -> str:
        """The cfg's name."""
        return Path(self.flags[1]).name

    @property
    def title(self) -> str:
        """Data and cfg."""
        return f"{Path(self.data).name}, {self.cfg}"

    @property
    def command(self) -> str:
        """How train.py is called, without what differs."""
        return shlex.join(["train.py", "--data", Path(self.data).name, "--cfg", self.cfg, *self.flags[2:]])

    @property
    def folder(self) -> Path:
        """Where its runs lie."""
        return self.parent / folder_name(Path(self.data).name, Path(self.cfg).stem, *self.flags[2:])

    def runs(self) -> list[Run]:
        """All trainings, every activation with one seed before the next seed."""
        return [self.run(activation, seed) for seed in self.seeds for activation in self.activations]

    def run(self, activation: str, seed: int) -> Run:
        """The training with this activation and seed."""
        folder = self.folder / f"{activation}_seed{seed}"
        return Run(activation, ("--activation", activation), self.data, seed, folder)

    def histories(self, activation: str) -> dict[int, list[dict[str, float]]]:
        """The rows of metrics.jsonl of each finished training with this activation, by seed."""
        runs = [self.run(activation, seed) for seed in self.seeds]
        return {run.seed: run.rows() for run in runs if run.result(self.iterations) is not None}

    def metrics(self) -> tuple[str, ...]:
        """The names of what its evaluations measure, the one that decides first; none before the first is finished."""
        return next((shown_metrics(result) for run in self.runs() if (result := run.result(self.iterations))), ())

    def scores(self, activation: str, metric: str) -> dict[int, float]:
        """``metric`` at the end of each finished training with this activation, by seed."""
        runs = [self.run(activation, seed) for seed in self.seeds]
        return {run.seed: result[metric] for run in runs if (result := run.result(self.iterations)) is not None}

    def step_costs(self) -> StepCosts | None:
        """What a training step costs; None where that was not measured."""
        file = self.folder / _STEPS
        return StepCosts(**json.loads(file.read_text())) if file.exists() else None

    def keep_step_costs(self, costs: StepCosts) -> None:
        """Write what `step_costs` reads."""
        (self.folder / _STEPS).write_text(json.dumps(asdict(costs)) + "\n")


def add_study(study: Study) -> None:
    """Make the folder of ``study``, from which `studies_below` knows it."""
    study.folder.mkdir(parents=True, exist_ok=True)
    about = {key: value for key, value in asdict(study).items() if key != "parent"}
    (study.folder / _STUDY).write_text(json.dumps(about, indent=1) + "\n")


def studies_below(parent: Path) -> Iterator[Study]:
    """The studies in ``parent``, by name."""
    for file in sorted(parent.glob(f"*/{_STUDY}")):
        about = json.loads(file.read_text())
        lists = {key: tuple(about[key]) for key in ("flags", "activations", "seeds")}
        yield Study(parent, **{**about, **lists})
