"""training.checks.schedule: rates and lengths that cannot work, and none of those of the cfgs here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from training.checks.findings import Finding
from training.checks.schedule import schedule_findings
from utils.cfg import load_cfg
from utils.cfg.net import Net

CFG = replace(load_cfg("yolov4").net, batch=64, subdivisions=8)  # learning rate 0.0013


def findings(net: Net, original: Net = CFG, **how: Any) -> list[Finding]:
    return list(schedule_findings(net, original, **{"adam": False, "scaled": False, **how}))


@pytest.mark.parametrize("name", ["yolov4", "yolov4-mish", "yolov4-leaky", "yolov4-tiny", "yolov4-tiny-mish"])
def test_the_cfgs_here_are_fine(name: str) -> None:
    net = load_cfg(name).net
    assert findings(net, net) == []


@pytest.mark.parametrize(
    ("rate", "adam", "severity", "what"),
    [
        (0.3, False, "serious", "the learning rate rises to 0.3: the loss will not stay finite"),
        (0.1, False, "warning", "the learning rate rises to 0.1: rough for SGD"),
        (0.1, True, "serious", "the learning rate rises to 0.1: the loss will not stay finite"),
        (0.01, True, "warning", "the learning rate rises to 0.01: rough for Adam"),
        (1e-8, False, "serious", "the learning rate never exceeds 1e-08: nothing is learned"),
    ],
)
def test_rates_that_cannot_work(rate: float, adam: bool, severity: str, what: str) -> None:
    (found,) = findings(replace(CFG, learning_rate=rate), adam=adam)
    assert (found.severity, found.what, found.fix) == (severity, what, "--set learning_rate=0.0013")


def test_the_cfg_s_own_rate_is_no_remedy_for_itself() -> None:
    absurd = replace(CFG, learning_rate=3.0)
    (found,) = findings(absurd, absurd)
    assert found.fix == "--set learning_rate=0.00261"
    (found,) = findings(absurd, absurd, adam=True)
    assert found.fix == "--set learning_rate=0.001"


def test_the_peak_counts_not_the_base() -> None:
    steps = replace(CFG, policy="steps", steps=(1000,), scales=(200.0,), burn_in=100)
    assert "rises to 0.26:" in findings(steps)[0].what


def test_a_rate_for_another_batch() -> None:
    (found,) = findings(replace(CFG, batch=2, subdivisions=1))  # 32 times as much for each image
    assert not found.serious and found.what == (
        "learning rate 0.0013 with a batch of 2: the cfg has 0.0013 for 64, which is 4.1e-05 for 2"
    )
    assert found.fix == "--set learning_rate=4.1e-05, or another --batch"
    (found,) = findings(replace(CFG, batch=2048))  # a 32nd of it
    assert found.what.endswith("which is 0.042 for 2048") and found.fix.startswith("--set learning_rate=0.042")
    assert findings(replace(CFG, batch=4, subdivisions=1)) == []
    assert findings(replace(CFG, batch=2, subdivisions=1), scaled=True) == []
    assert findings(replace(CFG, batch=2, subdivisions=1), adam=True) == []
    assert findings(replace(CFG, batch=2, subdivisions=1), replace(CFG, learning_rate=0.0)) == []


def test_trainings_that_are_too_short() -> None:
    (found,) = findings(replace(CFG, max_batches=199))
    assert found.what == "199 iterations are too few to learn from" and "--epochs 100" in found.fix
    (found,) = findings(replace(CFG, max_batches=1600, burn_in=1000))
    assert found.what.startswith("the warm-up takes 1,000 of 1,600 iterations")
    assert found.fix == "--set burn_in=80, or a longer training: --iterations 10000"
    assert findings(replace(CFG, max_batches=2000, burn_in=1000)) == []
    assert [one.what for one in findings(replace(CFG, max_batches=0))] == ["0 iterations are too few to learn from"]


def test_batch_norm_of_one_image() -> None:
    (found,) = findings(replace(CFG, subdivisions=64))
    assert found.what == "batch 64 in 64 subdivisions: batch norm sees one image at a time"
    assert found.fix == "--subdivisions 16, or --batch auto; where memory does not allow it, --cbn"
    assert findings(replace(CFG, subdivisions=64), cbn=True) == []
    alone = replace(CFG, batch=1, subdivisions=1)
    assert [one.fix for one in findings(alone, alone)] == ["--batch 8"]


def test_a_deep_network_wants_a_longer_training() -> None:
    short = replace(CFG, max_batches=300, burn_in=12)
    assert findings(short) == []
    (found,) = findings(short, deep=True)
    assert found.what == "300 iterations are too few for a network so deep to learn from"
    assert findings(replace(short, max_batches=1000), deep=True) == []
