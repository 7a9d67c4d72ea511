"""Focal loss on supervised rows is the dense one, in value and gradient; worked numbers; edges."""

import math

import pytest
import torch

from modeling_unimp import focal_loss
from modeling_unimp.focal_loss import CONTEXT, NEXT_ITEM, TASK, focal, supervised_rows, token_nll, weighted_loss


def dense_focal(logits, labels, gamma):
    """The formula as it is printed: over all positions, with the probability of the label."""
    probabilities = logits[:, :-1].softmax(-1)
    targets = labels[:, 1:]
    p = probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    losses = -((1 - p) ** gamma) * p.log()
    return (losses * (targets != -100)).sum() / (targets != -100).sum()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("logits_at_once", [2**27, 35, 3])  # of 11 classes all rows, three, and one
def test_supervised_rows_are_dense(gamma, logits_at_once, monkeypatch):
    monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", logits_at_once)
    torch.manual_seed(0)
    hidden = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (3, 7))
    labels[torch.rand(3, 7) < 0.5] = -100
    expected = dense_focal(hidden @ weight.T, labels, gamma)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    rows, targets = supervised_rows(hidden, labels)
    loss = focal(token_nll(rows, targets, lambda rows: rows @ weight.T, 11), gamma).mean()
    # The cross-entropy itself is float32.
    torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=1e-5)
    for gradient, other in zip(torch.autograd.grad(loss, (hidden, weight)), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("num_rows, num_classes", [(600, 5), (40, 100), (7, 1000), (3, 5000)])
def test_memory_is_bounded_by_rows_times_classes(num_rows, num_classes, monkeypatch):
    """No call of the head makes more logits than the bound, except one row of too many classes."""
    monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", 2000)
    made = []

    def project(hidden):
        made.append(len(hidden) * num_classes)
        return hidden @ weight

    weight = torch.randn(4, num_classes, requires_grad=True)
    hidden, targets = torch.randn(num_rows, 4, requires_grad=True), torch.arange(num_rows) % num_classes
    nll = token_nll(hidden, targets, project, num_classes)
    nll.sum().backward()
    assert max(made) <= max(2000, num_classes) and len(nll) == num_rows
    torch.testing.assert_close(nll, -(hidden @ weight).log_softmax(-1)[torch.arange(num_rows), targets])


def test_labels_are_shifted():
    hidden = torch.arange(4.0).view(1, 4, 1)
    rows, targets = supervised_rows(hidden, torch.tensor([[7, -100, 8, 9]]))
    assert rows.squeeze(1).tolist() == [1.0, 2.0] and targets.tolist() == [8, 9]
    rows, targets = supervised_rows(hidden, torch.tensor([[-100, 8, 9, 5]]), is_shifted=True)
    assert rows.squeeze(1).tolist() == [1.0, 2.0, 3.0] and targets.tolist() == [8, 9, 5]


def test_by_hand():
    nll = torch.tensor([math.log(2), math.log(4)])
    torch.testing.assert_close(focal(nll, 0), nll)
    torch.testing.assert_close(focal(nll, 2), torch.tensor([0.25 * math.log(2), 0.5625 * math.log(4)]))


def test_gradient_is_the_formula():
    nll = torch.linspace(0.05, 8, 20, dtype=torch.float64, requires_grad=True)
    for gamma in (0.5, 1.0, 2.0, 3.0):
        (gradient,) = torch.autograd.grad(focal(nll, gamma).sum(), nll)
        p = (-nll).exp()
        torch.testing.assert_close(gradient, (1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * p.log())


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
def test_gradient_is_finite_when_the_label_is_certain(gamma):
    nll = torch.tensor([0.0, 1e-40, 1e-30, 1e-8, 1e-3, 80.0], requires_grad=True)
    losses = focal(nll, gamma)
    losses.sum().backward()
    assert losses.isfinite().all() and nll.grad.isfinite().all()
    assert losses[0] == 0 and nll.grad[0] >= 0


def test_weighted_loss_by_hand():
    nll = torch.tensor([1.0, 2.0, 4.0, 8.0])
    kinds = torch.tensor([TASK, CONTEXT, TASK, CONTEXT])
    weights = torch.tensor([1.0, 0.5, 2.0, 0.5])
    losses = weighted_loss(nll, kinds, weights, torch.tensor([3.0, 10.0, 0.0]), gamma=0)
    torch.testing.assert_close(losses, torch.tensor([3.0, 0.5, 0.0]))
    assert NEXT_ITEM == 3


def test_no_supervised_row_keeps_the_graph():
    hidden, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    rows, targets = supervised_rows(hidden, torch.full((2, 3), -100))
    nll = token_nll(rows, targets, lambda rows: rows @ weight.T, len(weight))
    loss = weighted_loss(nll, targets, nll, torch.zeros(3), gamma=2).sum()
    loss.backward()
    assert loss == 0 and hidden.grad is not None and weight.grad is not None and not weight.grad.any()


def test_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma=-1"):
        focal(torch.ones(1), -1)
