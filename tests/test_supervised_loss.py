"""The loss of the whole model: supervised rows against dense logits, groups of labels, sampled items."""

import pytest
import torch
from tiny_models import (
    NUM_ITEMS,
    RAGGED,
    V,
    batch_of,
    model_of,
)

from modeling_unimp import focal_loss


def dense_nll(model, batch, group):
    """Log-softmax over all logits at all positions, or over those of each label's group."""
    logits, labels = model(**batch, skip_logits=False).logits[:, :-1], batch["labels"][:, 1:]
    if not group:
        return torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")
    losses = []
    for row, label in zip(logits[labels != -100], labels[labels != -100], strict=True):
        first, stop = next(ends for ends in model.config.group_slices.values() if ends[0] <= label < ends[1])
        losses.append(-row[first:stop].log_softmax(-1)[label - first])
    return torch.stack(losses)


@pytest.mark.parametrize("label_softmax", ["vocabulary", "group"])
@pytest.mark.parametrize("item_rows", ["free", "content", "both"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("logits_at_once", [2**27, 150, 1])  # all rows at once, two or so, and one
def test_supervised_rows_are_the_dense_loss(label_softmax, item_rows, tied, logits_at_once, monkeypatch):
    monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", logits_at_once)
    model = model_of("llama", item_rows=item_rows, tie_item_rows=tied, label_softmax=label_softmax)
    batch = batch_of(model.config, RAGGED, labels=True)
    expected = dense_nll(model, batch, label_softmax == "group")
    parameters = [each for each in model.parameters() if each.requires_grad]
    expected_gradients = torch.autograd.grad(expected.mean(), parameters, allow_unused=True)
    model.train()
    out = model(**batch)
    assert out.logits is None
    torch.testing.assert_close(out.nll, expected)
    torch.testing.assert_close(out.loss, expected.mean())
    gradients = torch.autograd.grad(out.loss, parameters, allow_unused=True)
    for one, other in zip(gradients, expected_gradients, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if one is None else one, zero if other is None else other, atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("item_rows", ["content", "both"])
def test_content_rows_are_made_once_however_many_parts_the_loss_has(item_rows, monkeypatch):
    monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", 1)
    model = model_of("llama", item_rows=item_rows).train()
    made = []
    model.model.item_embeddings.write.content.register_forward_hook(lambda module, args, rows: made.append(len(rows)))
    model(**batch_of(model.config, RAGGED, labels=True)).loss.backward()
    assert made == [NUM_ITEMS]


@pytest.mark.parametrize("label_softmax", ["vocabulary", "group"])
def test_a_batch_without_labels_keeps_the_graph(label_softmax):
    model = model_of("llama", label_softmax=label_softmax).train()
    batch = batch_of(model.config, RAGGED, labels=True)
    batch["labels"][:] = -100
    out = model(**batch)
    out.loss.backward()
    assert out.loss == 0 and out.nll.shape == (0,)
    assert model.model.language_model.layers[0].mlp.up_proj.weight.grad is not None


def test_sampled_items_stand_for_all_others(monkeypatch):
    """By hand: each drawn item counts as often as there are others to a drawn one."""
    model = model_of("llama", label_softmax="group", item_rows="both")
    batch = batch_of(model.config, RAGGED, labels=True)
    first = model.config.group_slices["items"][0]
    labels = batch["labels"][:, 1:]
    is_item = (labels >= first).nonzero()
    assert len(is_item)
    right = {int(label) - first for label in labels[labels >= first]}
    others = [number for number in range(NUM_ITEMS) if number not in right]
    drawn = [others[0], others[0], others[-1], next(iter(right))]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(drawn))
    logits = model(**{**batch, "labels": None}).logits[:, :-1, first:]
    nll, every = model(**batch, sampled_items=4).nll, model(**batch).nll
    places = (labels != -100).nonzero().tolist()
    for row, position in is_item.tolist():
        own = logits[row, position]
        weights = torch.zeros(NUM_ITEMS)
        weights[list(right)] = 1
        for number in (others[0], others[0], others[-1]):
            weights[number] += len(others) / 3
        expected = (weights * own.exp()).sum().log() - own[labels[row, position] - first]
        torch.testing.assert_close(nll[places.index([row, position])], expected)
    # The loss of other labels stays, and so does that of items where nothing is left out.
    others_alike = [place for place, (row, position) in enumerate(places) if labels[row, position] < first]
    assert torch.equal(nll[others_alike], every[others_alike])
    assert torch.equal(model(**batch, sampled_items=NUM_ITEMS).nll, every)
    with pytest.raises(ValueError, match="label_softmax='group'"):
        model_of("llama")(**batch, sampled_items=4)


def test_sampled_items_are_right_on_average():
    # Without pictures, which have no part in it: a thousand forwards.
    model = model_of("llama", label_softmax="group", item_rows="free", num_items=40, fusion="none")
    batch = batch_of(model.config, RAGGED, labels=True)
    every = model(**batch).nll
    torch.manual_seed(0)
    with torch.no_grad():
        sums = torch.stack([model(**batch, sampled_items=20).nll.exp() for _ in range(1000)]).mean(0)
    torch.testing.assert_close(sums, every.exp(), rtol=0.02, atol=0)


@pytest.mark.parametrize("label_softmax", ["vocabulary", "group"])
def test_items_that_do_not_compete_are_not_lowered(label_softmax):
    """By hand: they are left out of the softmax, but for one that is a label; their free rows get no gradient."""
    model = model_of("llama", label_softmax=label_softmax, item_rows="free")
    batch = batch_of(model.config, RAGGED, labels=True)
    first, labels = model.config.group_slices["items"][0], batch["labels"][:, 1:]
    right = {int(label) - first for label in labels[labels >= first]}
    new = [number for number in range(NUM_ITEMS) if number not in right][-2:]
    competing = torch.ones(NUM_ITEMS, dtype=torch.bool)
    competing[[*new, min(right)]] = False
    given = competing.clone()
    logits = model(**batch, skip_logits=False).logits[:, :-1].clone()
    logits[..., [first + number for number in new]] = float("-inf")
    outputs = model(**batch, competing_items=competing)
    expected = []
    for row, label in zip(logits[labels != -100], labels[labels != -100].tolist(), strict=True):
        of_label = next(ends for ends in model.config.group_slices.values() if ends[0] <= label < ends[1])
        start, stop = of_label if label_softmax == "group" else (0, model.config.vocab_size)
        expected.append(-row[start:stop].log_softmax(-1)[label - start])
    torch.testing.assert_close(outputs.nll, torch.stack(expected))
    assert torch.equal(competing, given)
    outputs.loss.backward()
    changed = model.model.item_embeddings.output_rows.items.grad.abs().sum(dim=1)
    assert changed[new].eq(0).all() and changed[list(right)].gt(0).all()


def test_items_that_do_not_compete_are_not_drawn(monkeypatch):
    model = model_of("llama", label_softmax="group", item_rows="free")
    batch = batch_of(model.config, RAGGED, labels=True)
    first, labels = model.config.group_slices["items"][0], batch["labels"][:, 1:]
    right = {int(label) - first for label in labels[labels >= first]}
    others = [number for number in range(NUM_ITEMS) if number not in right]
    competing = torch.ones(NUM_ITEMS, dtype=torch.bool)
    competing[others[0]] = False
    # All others once: each stands for itself, and nothing is estimated.
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(others))
    sampled, exact = (model(**batch, competing_items=competing, sampled_items=n).nll for n in (len(others), 0))
    torch.testing.assert_close(sampled, exact)


def test_only_the_groups_of_the_labels_are_computed():
    model = model_of("llama", label_softmax="group", item_rows="content")
    batch = batch_of(model.config, RAGGED, labels=True)
    batch["labels"][batch["labels"] >= V] = -100
    asked = []
    model.model.item_embeddings.register_forward_pre_hook(lambda module, args: asked.append(args[0]))
    assert len(model(**batch, skip_logits=True).nll) == len(RAGGED)
    # Nor for any other group's answer.
    del batch["labels"]
    assert model.stars(**batch).shape == (len(RAGGED), 5)
    assert "token_logits" in asked and not {"item_logits", "output_rows"} & set(asked)


@pytest.mark.parametrize("label_softmax", ["vocabulary", "group"])
def test_a_label_of_another_catalogue(label_softmax):
    model = model_of("llama", label_softmax=label_softmax)
    batch = batch_of(model.config, RAGGED, labels=True)
    batch["labels"][0, -1] = model.config.vocab_size
    with pytest.raises(ValueError, match="labels reach from 21 to 71: expected -100, or ids below 71"):
        model(**batch)


def test_loss_by_a_given_count():
    model = model_of("llama")
    batch = batch_of(model.config, RAGGED, labels=True)
    out = model(**batch, num_items_in_batch=torch.tensor(36.0))
    torch.testing.assert_close(out.loss, out.nll.sum() / 36)
