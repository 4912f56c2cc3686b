"""Schedules and settings: every epoch belongs to one phase, frozen means unchanged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas_nnunet.errors import PlanError
from atlas_nnunet.training.schedule import ALL, HEAD, SCHEDULES, PhaseScheduler, phase_at
from atlas_nnunet.training.settings import SECTION, Training, of_plans

names = st.sampled_from(sorted(SCHEDULES))


@given(names, st.integers(1, 300), st.floats(1e-5, 1))
def test_phases_fill_the_epochs_and_rates_stay_positive_and_below_the_highest(name, epochs, rate):
    phases = SCHEDULES[name](epochs, rate)
    assert sum(p.epochs for p in phases) == epochs
    for epoch in range(epochs):
        phase, within = phase_at(phases, epoch)
        assert 0 < phase.rate(within) <= rate
    assert phases[-1].trains == ALL


@pytest.mark.host
@given(st.integers(1, 200), st.floats(1e-4, 1e-1))
def test_nnunets_schedule_is_its_own_polynomial_decay(epochs, rate):
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], rate)
    stock = PolyLRScheduler(optimizer, rate, epochs)
    phases = SCHEDULES["nnunet"](epochs, rate)
    for epoch in range(epochs):
        stock.step(epoch)
        phase, within = phase_at(phases, epoch)
        assert phase.rate(within) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_frozen_body_does_not_move_and_thaws():
    head, body = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"name": HEAD, "params": [head]}, {"name": ALL, "params": [body]}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9, weight_decay=0.1)
    scheduler = PhaseScheduler(optimizer, SCHEDULES["head_then_all"](20, 0.1))
    moved = []
    for epoch in range(20):
        scheduler.step(epoch)
        before = head.detach().clone(), body.detach().clone()
        optimizer.zero_grad(set_to_none=True)
        (head.sum() ** 2 + (body * 1.0).sum() ** 2).backward()
        scheduler.drop_frozen_gradients()
        optimizer.step()
        moved.append([not torch.equal(a, b) for a, b in zip(before, (head, body), strict=True)])
    assert moved == [[True, False]] * 2 + [[True, True]] * 18
    assert head.requires_grad
    assert body.requires_grad, "a wrapper for several GPUs must not see it change"


def test_a_plan_without_our_section_trains_as_nnunet_does():
    default = of_plans({})
    assert (default.epochs, default.iterations, default.val_iterations) == (1000, 250, 50)
    assert (default.learning_rate, default.weight_decay, default.optimizer) == (1e-2, 3e-5, "sgd")


def test_settings_go_through_the_plan_unchanged():
    settings = Training(epochs=3, schedule="scratch", mirror_axes=(0,))
    assert of_plans({SECTION: {"training": settings.as_json()}}) == settings


@pytest.mark.parametrize(
    "section", [{"epoch": 3}, {"epochs": 0}, {"schedule": "?"}, {"mirror_axes": [3]}]
)
def test_a_wrong_setting_is_named(section):
    with pytest.raises(PlanError, match=next(iter(section))):
        of_plans({SECTION: {"training": section}})
