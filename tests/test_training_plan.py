"""training.schedule.plan: what a data set of some size makes of a schedule, by hand and for all sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.schedule.plan import Plan, Request, Schedule, plan_training
from utils.cfg import load_cfg, with_net

REQUESTED = {field.name for field in dataclasses.fields(Request)}


def planned(cfg: Schedule, images: int, **more: Any) -> Plan:
    """`plan_training`, with what is asked for and what is known side by side."""
    request = Request(**{name: value for name, value in more.items() if name in REQUESTED})
    return plan_training(cfg, images, request, **{name: more[name] for name in more.keys() - REQUESTED})


COCO = Schedule(
    batch=64,
    subdivisions=8,
    max_batches=500_500,
    burn_in=1000,
    learning_rate=0.0013,
    policy="steps",
    steps=(400_000, 450_000),
)


def test_two_hundred_images_on_cocos_schedule() -> None:
    plan = planned(COCO, 200)
    # 100 epochs of 200 / 8 = 25 steps; 4 % of 2,500 are 100; .0013 / 100
    assert plan.keys == {
        "batch": "8",
        "subdivisions": "1",
        "max_batches": "2500",
        "burn_in": "100",
        "policy": "sgdr",
        "sgdr_cycle": "2500",
        "learning_rate_min": "1.3e-05",
    }
    assert plan.notes == [
        "batch 8 for more updates an epoch (cfg: 64)",
        "subdivisions 1: 8 images at a time (cfg: 8)",
        "2,500 iterations of 8 images: 100.0 epochs (cfg: 500,500)",
        "warm-up of 100 iterations (cfg: 1,000)",
        "learning rate 0.0013 falls along a cosine to 1.3e-05 (cfg policy: steps)",
    ]


def test_a_dozen_images_get_a_thousand_steps() -> None:
    assert planned(COCO, 12).keys["max_batches"] == "1000"


def test_coco_itself_changes_nothing() -> None:
    assert planned(COCO, 117_266) == Plan()


def test_a_large_data_set_for_other_lengths() -> None:
    plan = planned(COCO, 64_000, epochs=100)
    # 1,000 steps an epoch; 400,000 and 450,000 of 500,500 are .7992 and .8991
    assert plan.keys == {"max_batches": "100000", "steps": "79920,89910"}
    assert planned(COCO, 64_000, iterations=500_000).keys == {"max_batches": "500000"}  # the steps still fit
    assert planned(COCO, 64_000, iterations=600_000).keys == {"max_batches": "600000"}
    # 4 % of 10,000
    assert planned(COCO, 64_000, iterations=10_000).keys["burn_in"] == "400"


@pytest.mark.parametrize(("total", "warm_up"), [(5, 1), (24, 5), (400, 80), (1000, 100), (2500, 100), (20_000, 800)])
def test_warm_up(total: int, warm_up: int) -> None:
    """4 % of the run, but at least 100 steps, but at most a fifth of it."""
    assert planned(COCO, 200, iterations=total).keys["burn_in"] == str(warm_up)
    assert "burn_in" not in planned(dataclasses.replace(COCO, burn_in=1), 200, iterations=total).keys


def test_epochs_are_rounded_up_to_whole_steps() -> None:
    assert planned(COCO, 10, epochs=3).keys["max_batches"] == "4"  # 30 images in steps of 8
    assert planned(COCO, 1, epochs=1).keys["max_batches"] == "1"


@pytest.mark.parametrize(
    ("given_", "changes"),
    [
        ({"batch"}, {"batch"}),
        ({"subdivisions"}, {"subdivisions"}),
        ({"max_batches"}, {"max_batches"}),
        ({"burn_in"}, {"burn_in"}),
        ({"policy"}, {"policy", "sgdr_cycle", "learning_rate_min", "steps"}),
        ({"steps"}, {"policy", "sgdr_cycle", "learning_rate_min", "steps"}),
        ({"scales"}, {"policy", "sgdr_cycle", "learning_rate_min", "steps"}),
    ],
)
def test_what_the_user_gave_stays(given_: set[str], changes: set[str]) -> None:
    assert not changes & planned(COCO, 200, given=given_).keys.keys()


@pytest.mark.parametrize(("subdivisions", "batch"), [(1, 8), (2, 8), (3, 9), (8, 8), (16, 16), (64, 64)])
def test_a_small_batch_fits_the_subdivisions_given(subdivisions: int, batch: int) -> None:
    plan = planned(dataclasses.replace(COCO, subdivisions=subdivisions), 200, given={"subdivisions"})
    assert plan.keys.get("batch", "64") == str(batch)


def test_as_many_subdivisions_as_memory_needs() -> None:
    # 5e9 bytes hold three images of 1.5e9: mini-batches of 2; of 9e9 not even one, which is tried all the same
    assert planned(COCO, 200, bytes_per_image=1.5e9).keys["subdivisions"] == "4"
    assert "subdivisions" not in planned(COCO, 200, bytes_per_image=9e9).keys  # 8, the cfg's
    assert planned(dataclasses.replace(COCO, batch=6), 200, bytes_per_image=1.5e9).keys["subdivisions"] == "2"


SCHEDULES = st.builds(
    Schedule,
    batch=st.integers(1, 128),
    subdivisions=st.just(1),
    max_batches=st.integers(1, 10**6),
    burn_in=st.integers(0, 5000),
    learning_rate=st.floats(1e-6, 1),
    policy=st.sampled_from(["constant", "steps", "sgdr", "poly"]),
    steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(lambda steps: tuple(sorted(steps))),
)


@settings(max_examples=150, deadline=None)
@given(
    SCHEDULES,
    st.integers(1, 200_000),
    st.one_of(st.none(), st.integers(1, 500)),
    st.floats(0, 1e10),
    st.sets(st.sampled_from(["batch", "subdivisions", "burn_in", "policy", "max_batches"])),
)
def test_every_plan_is_a_schedule(cfg: Schedule, images: int, epochs: int | None, size: float, given_: set) -> None:
    plan = planned(cfg, images, given=given_, epochs=epochs, bytes_per_image=size)
    assert plan == planned(cfg, images, given=given_, epochs=epochs, bytes_per_image=size)
    numbers = {key: int(plan.keys.get(key, getattr(cfg, key))) for key in ("batch", "subdivisions", "max_batches")}
    assert numbers["batch"] % numbers["subdivisions"] == 0 and numbers["subdivisions"] >= 1
    assert numbers["batch"] <= cfg.batch
    assert numbers["max_batches"] >= 1
    assert int(plan.keys.get("burn_in", 0)) <= cfg.burn_in
    assert len(plan.notes) <= len(plan.keys)
    assert bool(plan.notes) == bool(plan.keys)


@pytest.mark.parametrize("images", [1, 200, 9_999, 10_000, 117_266])
def test_the_plan_is_one_the_cfg_takes(images: int) -> None:
    config = load_cfg("yolov4")
    fields = [field.name for field in dataclasses.fields(Schedule)]
    plan = planned(Schedule(**{name: getattr(config.net, name) for name in fields}), images, epochs=30)
    net = with_net(config, **plan.keys).net
    assert net.max_batches == int(plan.keys["max_batches"])
    assert net.policy == "sgdr" and net.sgdr_cycle == net.max_batches if images < 10_000 else net.policy == "steps"


def test_a_share_of_the_iterations_as_warm_up() -> None:
    plan = planned(COCO, 200, iterations=300, warm_up=0.05)
    assert plan.keys["burn_in"] == "15"
    assert "warm-up of 15 iterations, 5.0% of all (cfg: 1,000)" in plan.notes
    assert planned(COCO, 117_266, warm_up=0.0, given={"burn_in"}).keys == {"burn_in": "0"}


def test_a_trained_detector_is_not_thrown_over() -> None:
    plan = planned(COCO, 200, fine_tuning=True)
    assert plan.keys["learning_rate"] == "0.001" and plan.keys["learning_rate_min"] == "1e-05"  # of the cosine
    assert "fine-tuning a trained detector: learning rate 0.001 instead of 0.0013" in plan.notes
    # .0013 / 8 is low enough
    plan = planned(COCO, 200, fine_tuning=True, nominal_batch=64)
    assert plan.keys["learning_rate"] == "0.0001625"
    assert "fine-tuning a trained detector: learning rate 0.0001625, low enough as it is" in plan.notes
    cosine = dataclasses.replace(COCO, learning_rate=0.01, learning_rate_min=0.0005, policy="sgdr", steps=())
    assert planned(cosine, 20_000, given={"policy"}, fine_tuning=True).keys["learning_rate_min"] == "5e-05"


def test_a_rate_for_another_batch() -> None:
    cosine = dataclasses.replace(COCO, learning_rate=0.01, learning_rate_min=0.0001, policy="sgdr", steps=())
    plan = planned(cosine, 200, given={"policy", "learning_rate"}, nominal_batch=64)
    # batches of 8: an eighth
    assert (plan.keys["learning_rate"], plan.keys["learning_rate_min"]) == ("0.00125", "1.25e-05")
    assert "learning rate 0.00125: 0.01 is meant for batches of 64, these are of 8" in plan.notes
    # where the policy is chosen here, the cosine starts from the scaled rate
    assert planned(COCO, 200, nominal_batch=16).keys["learning_rate_min"] == "6.5e-06"
    assert "learning_rate" not in planned(cosine, 200, given={"policy"}, nominal_batch=8).keys
    assert planned(COCO, 117_266, nominal_batch=128).keys["learning_rate"] == "0.00065"


def test_a_deep_network_gets_adamws_rate() -> None:
    plan = planned(COCO, 200, by_depth=True)
    assert (plan.keys["learning_rate"], plan.keys["learning_rate_min"]) == ("0.001", "1e-05")
    assert "learning rate 0.001 for AdamW (cfg: 0.0013)" in plan.notes
    assert "learning_rate" not in planned(COCO, 200, by_depth=True, given={"learning_rate"}).keys
