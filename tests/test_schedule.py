"""Schedules and settings: every epoch belongs to one phase, frozen means unchanged."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.errors import PlanError
from atlas_nnunet.schedule import ALL, SCHEDULES, Phase, head_then_all, phase_at, table
from atlas_nnunet.settings import SECTION, Training, of_plans
from atlas_nnunet.training.groups import PhaseScheduler, parameter_groups

names = st.sampled_from(sorted(SCHEDULES))
PLACES = {"encoder.w": ("encoder", 3), "decoder.w": ("decoder", 1), "seg.w": ("head", 0)}


def rates(name, epochs, rate=1.0, part="head", distance=0):
    phases = SCHEDULES[name].phases(epochs, rate)
    found = (phase_at(phases, epoch) for epoch in range(epochs))
    return [phase.rate(within, part, distance) for phase, within in found]


@given(names, st.integers(1, 1000), st.floats(1e-5, 1))
def test_phases_fill_the_epochs_and_rates_stay_positive_and_below_the_highest(name, epochs, rate):
    phases = SCHEDULES[name].phases(epochs, rate)
    assert sum(p.epochs for p in phases) == epochs
    assert not any(p.wrong for p in phases)
    assert all(0 < r <= rate for r in rates(name, epochs, rate))
    assert phases[-1].trains == (ALL if name != "frozen_encoder" else ("decoder", "head"))


@pytest.mark.parametrize("epochs", [50, 150, 201, 1000])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_comes_near_its_rate_and_ends_low(name, epochs):
    found = rates(name, epochs)
    assert max(found) > 0.9
    assert found[-1] < 0.2


def test_lengths_are_those_of_the_sources():
    def ramp_of(name, epochs):
        return [p.warm_up for p in SCHEDULES[name].phases(epochs, 1.0)]

    assert ramp_of("warm_up", 1000) == [50]
    assert ramp_of("warm_up", 150) == [15]
    assert ramp_of("suprem", 201) == [20]
    assert [p.epochs for p in SCHEDULES["decoder_then_all"].phases(1000, 1.0)] == [50, 950]
    assert ramp_of("decoder_then_all", 1000) == [25, 50]


COMPARED = {"lengths", "parts", "learning rate", "ramp", "decay", "optimizer", "weight decay"}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_does_what_its_source_does_or_says_what_differs(name):
    row = SCHEDULES[name]
    assert row.departures() == set(row.differs) & COMPARED
    assert all(words in row.source for words in row.differs.values())
    assert all(words in table() for words in (name, row.origin, *row.differs.values()))
    if row.published:
        assert row.published.where in row.source
    else:
        assert row.origin.startswith("ours")


def test_each_number_of_the_table_is_compared_with_its_source():
    suprem = SCHEDULES["suprem"]
    assert suprem.departures() == set()
    changes = {"optimizer": "sgd", "weight_decay": 3e-5, "phases": head_then_all}
    found = replace(suprem, **changes).departures()
    assert found == COMPARED
    assert (suprem.weight_decay, suprem.learning_rate) == (1e-5, 1e-4)
    heads = SCHEDULES["head_then_all"].published.stages[0]
    assert (heads.learning_rate, heads.optimizer) == (5e-4, "adamw amsgrad")
    assert "5e-4" in SCHEDULES["head_then_all"].source
    for name in ("warm_up", "decoder_then_all"):
        assert "without deep supervision" in SCHEDULES[name].source
    assert "batch size is always 2" in SCHEDULES["warm_up"].source


def lin_incr(epoch, steps):  # nnU-Net 0e495086, training/lr_scheduler/warmup.py
    return (epoch + 1) / steps


def poly(epoch, epochs, start):  # PolyLRScheduler_offset there
    return (1 - (epoch - start) / (epochs - start)) ** 0.9


def test_nnssls_rates_are_followed_epoch_by_epoch():
    want = [lin_incr(e, 50) if e < 50 else poly(e, 1000, 50) for e in range(1000)]
    assert rates("warm_up", 1000) == pytest.approx(want)
    want = [lin_incr(e, 15) if e < 15 else poly(e, 150, 15) for e in range(150)]
    assert rates("warm_up", 150) == pytest.approx(want)


def test_the_sawtooth_is_followed_epoch_by_epoch():
    want = [
        *(lin_incr(e, 25) for e in range(25)), *(poly(e, 50, 25) for e in range(25, 50)),
        *(lin_incr(e, 50) for e in range(50)), *(poly(e, 1000, 100) for e in range(100, 1000)),
    ]  # fmt: skip
    assert rates("decoder_then_all", 1000) == pytest.approx(want)
    encoder = rates("decoder_then_all", 1000, part="encoder")
    assert encoder == pytest.approx([0] * 50 + want[50:])


def test_cosine_is_half_way_down_at_half_time():
    phase = Phase(100, ALL, 2.0, decay="cosine")
    assert phase.rate(0) == 2.0
    assert phase.rate(50) == pytest.approx(1.0)
    assert phase.rate(75) == pytest.approx(2 * (1 - 2**-0.5) / 2)


def test_a_layer_learns_slower_than_the_one_after_it():
    phase = Phase(10, ALL, 1.0, layer_decay=0.5)
    assert [phase.rate(0, "encoder", d) for d in range(4)] == [1, 0.5, 0.25, 0.125]


@pytest.mark.host
@given(st.integers(1, 200), st.floats(1e-4, 1e-1))
def test_nnunets_schedule_is_its_own_polynomial_decay(epochs, rate):
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], rate)
    stock = PolyLRScheduler(optimizer, rate, epochs)
    for epoch, ours in enumerate(rates("nnunet", epochs, rate)):
        stock.step(epoch)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("name", "still"), [("head_then_all", 2), ("decoder_then_all", 2), ("frozen_encoder", 20)]
)
def test_what_is_frozen_does_not_move_and_thaws(name, still):
    named = {n: torch.nn.Parameter(torch.ones(3)) for n in PLACES}
    optimizer = torch.optim.SGD(
        parameter_groups(named.items(), PLACES.__getitem__), 0.1, momentum=0.9, weight_decay=0.1
    )
    scheduler = PhaseScheduler(optimizer, SCHEDULES[name].phases(20, 0.1))
    moved = []
    for epoch in range(20):
        scheduler.step(epoch)
        before = [p.detach().clone() for p in named.values()]
        optimizer.zero_grad(set_to_none=True)
        sum((p * 1.0).sum() ** 2 for p in named.values()).backward()
        scheduler.drop_frozen_gradients()
        optimizer.step()
        moved.append([not torch.equal(a, b) for a, b in zip(before, named.values(), strict=True)])
    decoder_moves = name != "head_then_all"
    assert moved == [[False, decoder_moves, True]] * still + [[True] * 3] * (20 - still)
    assert all(p.requires_grad for p in named.values()), (
        "a wrapper for several GPUs must not see it change"
    )


def test_groups_are_by_part_and_distance_in_whatever_order_names_come_and_the_head_is_first():
    places = {**PLACES, "decoder.v": ("decoder", 2), "encoder.v": ("encoder", 2)}
    named = [(n, torch.nn.Parameter(torch.ones(1))) for n in places]
    for order in (named, named[::-1]):
        found = parameter_groups(order, places.__getitem__)
        assert [(g["part"], g["distance"]) for g in found] == [
            ("head", 0), ("decoder", 1), ("decoder", 2), ("encoder", 2), ("encoder", 3),
        ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_rate_that_nnunet_logs_is_the_phases_highest(name):
    named = [(n, torch.nn.Parameter(torch.ones(1))) for n in PLACES]
    optimizer = torch.optim.SGD(parameter_groups(named, PLACES.__getitem__), 1.0)
    scheduler = PhaseScheduler(optimizer, SCHEDULES[name].phases(20, 0.1))
    for epoch in range(20):
        scheduler.step(epoch)
        logged = optimizer.param_groups[0]["lr"]  # nnUNetTrainer.py:1014, nnunetv2 2.8.1
        assert logged == max(group["lr"] for group in optimizer.param_groups) > 0


def test_a_plan_without_our_section_trains_as_nnunet_does():
    default = of_plans({})
    assert (default.epochs, default.iterations, default.val_iterations) == (1000, 250, 50)
    assert (default.learning_rate, default.weight_decay, default.optimizer) == (1e-2, 3e-5, "sgd")


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_settings_go_through_the_plan_unchanged_with_phases_and_source(name):
    settings = Training.of_schedule(name, {"epochs": 60, "mirror_axes": (0,), "seed": None})
    content = settings.as_json()
    assert of_plans({SECTION: {"training": content}}) == settings
    assert content["schedule_source"] == SCHEDULES[name].source
    assert sum(phase["epochs"] for phase in content["phases"]) == 60
    assert settings.optimizer == SCHEDULES[name].optimizer


def test_phases_in_the_plan_are_what_is_done():
    content = Training.of_schedule("nnunet", {"epochs": 10}).as_json()
    content["phases"] = [
        {"epochs": 4, "trains": ["head"], "learning_rate": 0.1, "decay": "constant"},
        {"epochs": 6, "trains": ["decoder", "head"], "learning_rate": 0.2},
    ]
    found = of_plans({SECTION: {"training": content}}).phases
    assert found == (
        Phase(4, ("head",), 0.1, decay="constant"), Phase(6, ("decoder", "head"), 0.2),
    )  # fmt: skip


def test_what_is_given_replaces_what_the_authors_have():
    found = Training.of_schedule("suprem", {"learning_rate": 3e-4, "optimizer": None})
    assert (found.learning_rate, found.optimizer, found.weight_decay) == (3e-4, "adamw", 1e-5)
    assert found.phases[0].learning_rate == 3e-4


@pytest.mark.parametrize(
    "section",
    [{"epoch": 3}, {"epochs": 0}, {"schedule": "?"}, {"mirror_axes": [3]}, {"ema_decay": 1.0},
     {"l2_sp": -1}, {"schedule": "scratch", "l2_sp": 0.1}, {"learning_rate": 0}],
)  # fmt: skip
def test_a_wrong_setting_is_named(section):
    with pytest.raises(PlanError, match=list(section)[-1]):
        of_plans({SECTION: {"training": section}})


@pytest.mark.parametrize(
    ("change", "said"),
    [({"epochs": 3}, "3 epochs together"), ({"trains": ["body"]}, "phase 0: trains"),
     ({"decay": "step"}, "phase 0: decay"), ({"layer_decay": 0}, "phase 0: layer_decay"),
     ({"warm_up": 10}, "phase 0: warm_up"), ({"rate": 1}, "cannot be read: .*rate"),
     ({"learning_rate": "0.1"}, "cannot be read")],
)  # fmt: skip
def test_a_wrong_phase_is_named(change, said):
    phase = {"epochs": 10, "trains": ["head"], "learning_rate": 0.1, **change}
    with pytest.raises(PlanError, match=said):
        of_plans({SECTION: {"training": {"epochs": 10, "phases": [phase]}}})


def test_changed_epochs_without_changed_phases_are_refused():
    settings = Training(epochs=10)
    with pytest.raises(PlanError, match="10 epochs together, epochs is 11"):
        replace(settings, epochs=11)
