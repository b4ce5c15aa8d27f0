"""benchmarks/activation_study.py: the trainings it starts, their order, its table and picture, the cost of a step."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import activation_study
from benchmarks.activation_runs import Study, add_study, studies_below
from utils.errors import UsageError

SCORES = {"leaky": 0.50, "relu": 0.40, "swish": 0.45, "mish": 0.52}  # and a twentieth more with each seed


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of train.py that were run; each leaves the metrics of a finished training of 20 iterations."""
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        assert check and command[1].endswith("train.py")
        commands.append(command[2:])
        folder = Path(command[command.index("--resume" if "--resume" in command else "--out") + 1])
        activation, seed = folder.name.split("_seed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics(SCORES[activation], int(seed)))) + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def metrics(score: float, seed: int) -> list[dict[str, float]]:
    """Losses that fall to 1 / score, and an evaluation in the middle and at the end."""
    rows: list[dict[str, float]] = [{"iteration": i, "loss": 20.0 / i / score, "lr": 0.1} for i in range(1, 21)]
    for iteration, part in ((10, 0.5), (20, 1.0)):
        ap50 = part * (score + 0.05 * seed)
        rows.append({"iteration": iteration, "ap50": ap50, "ap": ap50 / 2, "ap75": ap50 / 4})
    return rows


def flags(folder: Path, *more: str) -> list[str]:
    places = {"--runs": "runs", "--out": "study.md", "--picture": "study.svg"}
    paths = [part for flag, name in places.items() for part in (flag, str(folder / name))]
    return ["--data", "some/bccd", "--iterations", "20", "--size", "224", *paths, *more]


def table_lines(folder: Path) -> list[str]:
    return [line for line in (folder / "study.md").read_text().splitlines() if line.startswith("|")]


def test_every_activation_with_one_seed_before_the_next(tmp_path: Path, trained: list[list[str]]) -> None:
    activation_study.main(flags(tmp_path, "--only", "trainings", "--seeds", "0", "1", "--mosaic", "0.5"))
    assert [(command[1], command[5]) for command in trained] == [
        (activation, seed) for seed in "01" for activation in ("leaky", "relu", "swish", "mish")
    ]
    shared = ["--cfg", "yolov4-tiny.cfg", "--iterations", "20", "--eval-interval", "5", "--size", "224x224"]
    shared += ["--batch", "8", "--precision", "auto", "--device", "auto", "--mosaic", "0.5"]
    for command in trained:
        assert command[0::2][:4] == ["--activation", "--data", "--seed", "--out"] and command[8:] == shared
    activation_study.main(flags(tmp_path, "--only", "trainings", "--seeds", "0", "1", "--mosaic", "0.5"))
    assert len(trained) == 8  # all were finished
    activation_study.main(flags(tmp_path, "--only", "trainings", "--seeds", "2", "--activations", "mish"))
    assert len(trained) == 9  # other flags are another study


def test_a_stopped_training_goes_on(tmp_path: Path, trained: list[list[str]]) -> None:
    arguments = flags(tmp_path, "--only", "trainings", "--seeds", "0", "--activations", "mish")
    activation_study.main(arguments)
    (folder,) = tmp_path.glob("runs/*/mish_seed0")
    (folder / "metrics.jsonl").write_text('{"iteration": 10, "ap50": 0.1, "ap": 0.1, "ap75": 0.1}\n')
    (folder / "last.pt").touch()
    activation_study.main(arguments)
    assert trained[1:] == [["--resume", str(folder)]]


def test_the_table_and_the_picture(tmp_path: Path, trained: list[list[str]]) -> None:
    activation_study.main(flags(tmp_path, "--only", "trainings", "--seeds", "0", "1"))
    # .52 and .57: mean .545, deviation .0354, t(1) = 12.706: 12.706 * .0354 / sqrt(2) = .318
    # the last two losses are 20/19 and 1 over the score: mean 1.0263 / .52, and 1.0263 / .4 with relu
    lines = table_lines(tmp_path)
    assert lines[0] == "| activation | seeds | AP50 | AP | AP75 | loss |"
    assert lines[5] == "| mish | 2 | 0.545 ± 0.318 | 0.273 ± 0.159 | 0.136 ± 0.079 | 1.974 ± 0.000 |"
    # both seeds differ by .12, so the interval is one point
    assert lines[-2].startswith("| mish - relu | 2 | +0.120 [+0.120, +0.120] | +0.060 [+0.060, +0.060] |")
    assert lines[-2].endswith("| -0.592 [-0.592, -0.592] |")
    text = (tmp_path / "study.md").read_text()
    assert "## bccd, yolov4-tiny.cfg" in text and "8 of 8 trainings finished" in text
    assert "some/" not in text.split("##")[1]  # where the data lies is nobody's business
    picture = (tmp_path / "study.svg").read_bytes()
    assert b"<svg" in picture and len(picture) < 200_000
    activation_study.main(flags(tmp_path, "--only", "report", "--seeds", "0", "1"))
    assert (tmp_path / "study.svg").read_bytes() == picture


def test_a_stopped_study_has_its_table(
    tmp_path: Path, trained: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run

    def stop_after_five(command: Sequence[str], check: bool) -> None:
        if len(trained) == 5:
            raise KeyboardInterrupt
        run(command, check=check)

    monkeypatch.setattr(subprocess, "run", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        activation_study.main(flags(tmp_path, "--seeds", "0", "1"))
    lines = table_lines(tmp_path)
    assert lines[2].startswith("| leaky | 2 |") and lines[5].startswith("| mish | 1 | 0.520 |")
    assert lines[-3] == "| mish - leaky | 1 | +0.020 | +0.010 | +0.005 | -0.079 |"


def test_what_was_not_run_says_so(tmp_path: Path, trained: list[list[str]]) -> None:
    activation_study.main(flags(tmp_path, "--only", "report"))
    assert not trained and not (tmp_path / "study.svg").exists()
    assert "0 of 12 trainings finished.\n\nNot run." in (tmp_path / "study.md").read_text()


def test_a_study_is_found_again(tmp_path: Path) -> None:
    study = Study(tmp_path, "a/bccd", 20, ("--cfg", "yolov4.cfg", "--size", "224"), ("leaky", "mish"), (0, 7))
    add_study(study)
    assert list(studies_below(tmp_path)) == [study]


def test_the_cost_of_a_step(tmp_path: Path) -> None:
    more = ["--only", "steps", "--cfg", "cifar.cfg", "--size", "32", "--batch", "2", "--rounds", "1"]
    activation_study.main(flags(tmp_path, *more, "--activations", "leaky", "mish", "--device", "cpu"))
    lines = table_lines(tmp_path)
    assert lines[0] == "| activation | ms | peak MiB | time, leaky = 1 | memory, leaky = 1 |"
    assert lines[2].startswith("| leaky | ") and lines[2].endswith(" | 1.00 | 1.00 |")
    assert float(lines[3].split(" | ")[2]) > 100  # the process holds torch


def test_wrong_flags(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"activation_study.py: the following arguments are required: --data"):
        activation_study.main([])
