"""The average is the recursion by hand and outlives a resume; the pull is a gradient."""

import copy

import pytest
import torch

from atlas_nnunet.training.averaging import EMA, Anchor, Average

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, 0.1),
}


def step(parameters, optimizer, average, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    average.update()


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_the_average_is_the_recursion(kind):
    p = torch.nn.Parameter(torch.randn(4))
    optimizer = OPTIMIZERS[kind]([p])
    average = Average(optimizer, 0.5)
    expected = None
    for i in range(12):
        step([p], optimizer, average, i)
        decay = min(0.5, (1 + i) / (10 + i))
        now = p.detach()
        expected = now.clone() if expected is None else decay * expected + (1 - decay) * now
    assert not torch.allclose(p, expected)
    average.put_in()
    torch.testing.assert_close(p.detach(), expected)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_it_goes_on_in_a_resumed_training(kind):
    def start():
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = OPTIMIZERS[kind]([p])
        return p, optimizer, Average(optimizer, 0.9)

    p, optimizer, average = start()
    for i in range(5):
        step([p], optimizer, average, i)
    stored = copy.deepcopy((p.detach(), optimizer.state_dict()))
    q, other, resumed = start()
    with torch.no_grad():
        q.copy_(stored[0])
    other.load_state_dict(stored[1])
    resumed.n_updates = 5
    for i in range(5, 8):
        step([p], optimizer, average, i)
        step([q], other, resumed, i)
    average.put_in()
    resumed.put_in()
    assert torch.equal(p, q)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_what_never_moved_keeps_its_weights_and_can_start_later(kind):
    moving, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = OPTIMIZERS[kind]([moving, frozen])
    average = Average(optimizer, 0.9)
    step([moving], optimizer, average, 0)
    assert EMA not in optimizer.state.get(frozen, {})
    average.put_in()
    assert torch.equal(frozen, torch.ones(2))
    step([moving, frozen], optimizer, average, 1)
    assert EMA in optimizer.state[frozen]


def test_the_pull_is_the_gradient_of_the_penalty():
    torch.manual_seed(0)
    p, q = (torch.nn.Parameter(torch.randn(5)) for _ in range(2))
    start = {"p": torch.randn(5)}
    penalty = 0.3 / 2 * ((p - start["p"]) ** 2).sum()
    expected = 1 + torch.autograd.grad(penalty, p)[0]
    p.grad, q.grad = torch.ones(5), torch.ones(5)
    Anchor({"p": p}, start, 0.3).add_gradients()
    torch.testing.assert_close(p.grad, expected)
    assert torch.equal(q.grad, torch.ones(5))


def test_what_stands_still_is_not_pulled():
    p = torch.nn.Parameter(torch.ones(2))
    Anchor({"p": p}, {"p": torch.zeros(2)}, 1.0).add_gradients()
    assert p.grad is None


def test_a_skipped_step_counts_as_an_iteration_and_changes_no_average():
    """A resumed training sets `n_updates` to its iterations."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS["sgd"]([p])
    average = Average(optimizer, 0.9)
    step([p], optimizer, average, 0)
    before = optimizer.state[p][EMA].clone()
    average.skip()
    assert torch.equal(optimizer.state[p][EMA], before)
    assert average.n_updates == 2
