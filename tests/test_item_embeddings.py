"""Rows of added tokens: made free, from content, or both; they grow; the frozen vocabulary stays as it is."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from modeling_unimp import UniMPForConditionalGeneration
from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.item_embeddings import ItemContent, UniMPItemEmbeddings
from processing_unimp import Catalogue, UniMPProcessor

TEXT = {"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = ("free", "content", "both")


def embeddings_of(item_rows, num_items=6, **overrides):
    torch.manual_seed(0)
    fields = {"num_terms": 50, "content_length": 4, "content_picture_size": 5} if item_rows != "free" else {}
    config = UniMPConfig(text_config=TEXT, item_rows=item_rows, num_items=num_items, **fields | overrides)
    module = UniMPItemEmbeddings(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    if item_rows != "free" and num_items:
        module.set_content(content_of(num_items, config))
    return module


def content_of(num_items, config, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, 50, (num_items, 4), generator=generator)
    weights = torch.rand(num_items, 4, generator=generator)
    pictures = torch.randn(num_items, 5, generator=generator) if config.content_picture_size else None
    return ItemContent(ids, weights, pictures)


def step(module):
    """One of an optimizer whose kernel writes weights without counting it."""
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch.optim.AdamW(module.parameters(), lr=0.5, fused=True).step()


@pytest.mark.parametrize("item_rows", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_reading_some_items_is_reading_them_out_of_all(item_rows, tied):
    module = embeddings_of(item_rows, tie_item_rows=tied)
    all_rows = module.read("items", None, module._content())
    ids = torch.tensor([12 + 4, 0, 12 + 0, 11, 12 + 4, 5])
    rows = module("input_rows", ids, None)
    torch.testing.assert_close(rows[[0, 2, 4]], all_rows[[4, 0, 4]])
    assert torch.equal(rows[[1, 3, 5]], module.read.tokens[[0, 11, 5]])
    assert torch.equal(module("output_rows"), all_rows) == tied
    hidden = torch.randn(3, 16)
    tokens = (module.read if tied else module.write).tokens
    assert torch.equal(module("token_logits", hidden, slice(2, 9)), hidden @ tokens[2:9].T)
    torch.testing.assert_close(module("item_logits", hidden), hidden @ module("output_rows").T)


def test_logits_of_rows_in_half_precision_are_those_of_the_same_rows_in_float32():
    module = embeddings_of("free", num_items=1_300).to(torch.bfloat16)  # of more rows than are cast at once
    hidden = torch.randn(2, 3, 16, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = module("item_logits", hidden)
        expected = hidden.float() @ module("output_rows").float().T
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_content_by_hand():
    module = embeddings_of("both", num_items=3)
    terms, projection = module.read.content.terms, module.read.content.picture_proj.weight
    ids, weights = torch.full((3, 4), -1), torch.zeros(3, 4)
    ids[0, :2], weights[0, :2] = torch.tensor([7, 9]), torch.tensor([0.8, 0.6])
    pictures = torch.tensor([[4.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0], [0, 0, 0, 0, 0]])
    module.set_content(ItemContent(ids, weights, pictures))
    rows = module.read("items", None, module._content())
    # The mean of the pictures is (2, 1, 0, 0, 0): what is left of both is (2, -1) in one direction or the other.
    picture = torch.tensor([2.0, -1, 0, 0, 0]) / 5**0.5
    torch.testing.assert_close(rows[0], module.read.items[0] + 0.8 * terms[7] + 0.6 * terms[9] + projection @ picture)
    torch.testing.assert_close(rows[1], module.read.items[1] - projection @ picture)
    # Without text and picture, only the free part is left.
    torch.testing.assert_close(rows[2], module.read.items[2])


def test_a_picture_of_tomorrow_is_centred_as_those_of_today():
    module = embeddings_of("content", num_items=2)
    ids, weights = torch.full((2, 4), -1), torch.zeros(2, 4)
    module.set_content(ItemContent(ids, weights, torch.tensor([[4.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0]])))
    module.update_items(torch.tensor([1]), ItemContent(ids[:1], weights[:1], torch.tensor([[4.0, 0, 0, 0, 0]])))
    torch.testing.assert_close(module.content_pictures[1], module.content_pictures[0])
    module.add_items(1, ItemContent(ids[:1], weights[:1], torch.tensor([[0, 2.0, 0, 0, 0]])))
    torch.testing.assert_close(module.content_pictures[2], -module.content_pictures[0])


def test_a_picture_that_did_not_change_stays():
    module = embeddings_of("both")
    before = module.content_pictures.clone()
    new = content_of(2, module.config, seed=5)
    kept = torch.tensor([True, False])
    module.update_items(torch.tensor([4, 1]), new._replace(pictures=torch.ones(2, 5)), keep_pictures=kept)
    changed = (module.content_pictures != before).any(dim=1)
    assert changed.tolist() == [False, True, False, False, False, False]
    assert torch.equal(module.content_term_ids[[4, 1]], new.term_ids.int())


def test_similarity_in_terms_by_hand():
    embeddings = embeddings_of("content", num_items=3, content_picture_size=0)
    ids = torch.tensor([[3, 5], [5, -1], [7, -1]])
    known = ItemContent(ids, torch.tensor([[0.6, 0.8], [1.0, 0.0], [1.0, 0.0]]))
    embeddings.set_content(known)
    others = ItemContent(torch.tensor([[5, 3, -1], [9, -1, -1]]), torch.tensor([[0.8, 0.6, 0.0], [1.0, 0, 0]]))
    found = list(embeddings.similarity_of_terms(others))
    torch.testing.assert_close(torch.stack(found), torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.0, 0.0]]))


def test_similarity_in_pictures_by_hand():
    """Squared cosine of what differs from the mean (1, 1) of both pictures; opposites are not alike."""
    embeddings = embeddings_of("content", num_items=3)
    terms = torch.full((3, 1), -1), torch.zeros(3, 1)
    nothing = torch.zeros(3, 3)
    embeddings.set_content(ItemContent(*terms, torch.cat([torch.tensor([[2.0, 1], [0, 1], [0, 0]]), nothing], dim=1)))
    others = torch.cat([torch.tensor([[4.0, 4.0], [0.0, 0.0], [1.0, 3.0]]), nothing], dim=1)
    found = list(embeddings.similarity_of_pictures(ItemContent(*terms, others)))
    torch.testing.assert_close(torch.stack(found), torch.tensor([[0.5, 0, 0], [0, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("item_rows", KINDS)
def test_gradients_reach_what_was_read(item_rows):
    module = embeddings_of(item_rows)
    module("input_rows", torch.tensor([12 + 4, 3]), None).sum().backward()
    assert module.read.tokens.grad.any(1).nonzero().flatten().tolist() == [3]
    if item_rows != "content":
        assert module.read.items.grad.any(1).nonzero().flatten().tolist() == [4]
    if item_rows != "free":
        read = module.content_term_ids[4]
        assert set(module.read.content.terms.grad.any(1).nonzero().flatten().tolist()) == set(read[read >= 0].tolist())
        assert module.read.content.picture_proj.weight.grad.any()


@pytest.mark.parametrize("item_rows", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_added_items_leave_the_old_rows(item_rows, tied):
    module = embeddings_of(item_rows, tie_item_rows=tied)
    old_out = module("output_rows")
    old_in = module("input_rows", torch.arange(12, 18), None)
    if item_rows == "free":
        module.add_items(3)
    else:
        module.add_items(3, content_of(3, module.config, seed=9))
    module.config.num_items += 3
    assert torch.equal(module("output_rows")[:6], old_out)
    assert torch.equal(module("input_rows", torch.arange(12, 18), None), old_in)
    assert module("output_rows").shape == (9, 16)
    if item_rows == "free":
        torch.testing.assert_close(module.read.items[6:], module.read.items[:6].mean(0).expand(3, -1))
    if item_rows == "both":
        assert not module.read.items[6:].any()


def test_items_added_after_a_training_are_the_mean_of_the_trained_rows():
    module = embeddings_of("free")
    module.add_items(1)
    step(module)
    expected = module.read.items.mean(dim=0)
    module.add_items(1)
    torch.testing.assert_close(module.read.items[-1], expected)


def test_adding_to_an_empty_catalogue():
    module = embeddings_of("free", num_items=0)
    module.add_items(4)
    assert module.read.items.shape == (4, 16) and module.read.items.any(1).all()


def test_frozen_rows_stay_frozen_when_they_grow():
    module = embeddings_of("free")
    module.requires_grad_(False)
    module.add_items(1)
    assert not module.read.items.requires_grad


def test_content_is_saved_with_the_module():
    names = {"content_term_ids", "content_term_weights", "content_pictures", "picture_mean"}
    module = embeddings_of("both")
    assert names <= set(module.state_dict())
    assert module.content_term_ids.dtype == torch.int32
    assert not names & set(embeddings_of("free").state_dict())


def test_changed_content_changes_the_rows():
    module = embeddings_of("content", content_picture_size=0)
    first = module("output_rows")
    module.set_content(ItemContent(module.content_term_ids.flip(0), module.content_term_weights.flip(0)))
    torch.testing.assert_close(module("output_rows"), first.flip(0))


@pytest.mark.parametrize("item_rows", KINDS)
def test_kept_rows_are_those_of_now(item_rows):
    module = embeddings_of(item_rows)
    module.keeps_rows = True
    rows, content = module.output_rows, item_rows != "free"

    def changes():
        yield lambda: None
        yield lambda: rows.content.terms.mul_(2) if content else rows.items.mul_(2)
        yield lambda: step(rows)
        if content:
            yield lambda: module.update_items(torch.tensor([0]), content_of(1, module.config, seed=3))
            for seed in (4, 5):
                yield lambda seed=seed: module.set_content(content_of(6, module.config, seed))
        yield lambda: module.add_items(1, content_of(1, module.config) if content else None)
        yield module.double

    with torch.no_grad():
        for change in changes():
            change()
            assert torch.equal(module("output_rows"), module._item_rows(rows))
            assert module("output_rows") is module("output_rows")
    assert module("output_rows").requires_grad, "made anew where something is learnt"


def test_content_is_cut_and_filled():
    module = embeddings_of("content", content_picture_size=0)
    module.set_content(ItemContent(torch.full((6, 2), 7), torch.ones(6, 2)))
    assert module.content_term_ids[0].tolist() == [7, 7, -1, -1]
    assert module.content_term_weights[0].tolist() == [1, 1, 0, 0]
    module.set_content(ItemContent(torch.arange(6).expand(6, -1), torch.ones(6, 6)))
    assert module.content_term_ids[0].tolist() == [0, 1, 2, 3]


TERMS = torch.zeros(6, 4, dtype=torch.long), torch.zeros(6, 4)


@pytest.mark.parametrize(
    "item_rows, content, message",
    [
        ("free", TERMS, "item_rows='free' makes nothing from content"),
        ("both", (TERMS[0][:5], TERMS[1][:5]), r"terms of shape \(5, 4\) .* needs \(6, length\)"),
        ("both", (TERMS[0], TERMS[1][:, :3]), r"weights of shape \(6, 3\)"),
        ("both", (TERMS[0] + 50, TERMS[1], torch.zeros(6, 5)), "the terms hold the number 50: .*num_terms=50"),
        ("both", TERMS, r"pictures of shape None: content_picture_size asks for \(6, 5\)"),
        ("both", (*TERMS, torch.zeros(6, 3)), r"pictures of shape \(6, 3\)"),
    ],
)
def test_wrong_content(item_rows, content, message):
    with pytest.raises(ValueError, match=message):
        embeddings_of(item_rows).set_content(ItemContent(*content))


def test_items_without_content_cannot_be_added_to_content_rows():
    with pytest.raises(ValueError, match=r"terms of shape None .* item_rows='both' needs \(2, length\)"):
        embeddings_of("both").add_items(2)
    with pytest.raises(ValueError, match="add items by their number alone"):
        embeddings_of("free").add_items(2, ItemContent(*TERMS))


def test_rows_of_nothing_are_refused():
    with pytest.raises(
        StrictDataclassError,
        match="num_terms=0 and content_picture_size=0 has nothing to make rows from",
    ):
        UniMPConfig(text_config=TEXT, item_rows="content", num_items=3)


@pytest.mark.parametrize("item_rows", ["free", "both"])
@pytest.mark.parametrize("how", ["autocast", "held"])
def test_items_are_ranked_in_float32(item_rows, how):
    """Of 3,000 logits in bfloat16 many are equal, and equal scores say nothing of an order."""
    items = [{"item_id": f"i{number}", "title": f"t{number % 50}"} for number in range(3_000)]
    catalogue = Catalogue.from_items(items)
    processor = UniMPProcessor.from_backbones("nano", None, catalogue, history_format="compact")
    torch.manual_seed(0)
    model = UniMPForConditionalGeneration.from_backbones(
        "nano", None, catalogue, processor, item_rows=item_rows, tie_item_rows=True
    ).eval()
    nn.init.normal_(model.model.item_embeddings.read.items)
    batch = processor(requests=[{"task": "recommend", "history": [f"i{number}"]} for number in range(8)])
    batch.pop("task_ids")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        if how == "held":
            model.to(torch.bfloat16)
        logits = model.answer_logits("items", **batch)[:, -1]
    assert logits.dtype == torch.float32
    assert all(len(set(row.tolist())) > 2_990 for row in logits)
