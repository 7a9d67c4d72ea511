"""Rows of added tokens: made free, from content, or both; they grow; the frozen vocabulary stays as it is."""

import pytest
import torch
from torch import nn

from modeling_unimp.configuration_unimp import UniMPConfig
from modeling_unimp.item_embeddings import UniMPItemEmbeddings, mean_words

TEXT = {"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = ("free", "content", "both")


def embeddings_of(item_rows, num_items=6, **overrides):
    torch.manual_seed(0)
    fields = {"content_length": 4, "content_picture_size": 5} if item_rows != "free" else {}
    config = UniMPConfig(text_config=TEXT, item_rows=item_rows, num_items=num_items, **fields | overrides)
    module = UniMPItemEmbeddings(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    if item_rows != "free" and num_items:
        module.set_content(*content_of(num_items, config))
    return module


def content_of(num_items, config, seed=1):
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(-1, 50, (num_items, 4), generator=generator)
    pictures = torch.randn(num_items, 5, generator=generator) if config.content_picture_size else None
    return token_ids, pictures


@pytest.fixture
def words():
    torch.manual_seed(3)
    return nn.Embedding(50, 16)


def test_mean_of_words_by_hand(words):
    token_ids = torch.tensor([[7, 9, -1, -1], [-1, -1, -1, -1], [0, 0, 3, -1]], dtype=torch.int32)
    rows = words.weight
    expected = torch.stack([(rows[7] + rows[9]) / 2, torch.zeros(16), (2 * rows[0] + rows[3]) / 3])
    torch.testing.assert_close(mean_words(token_ids, words), expected)
    assert mean_words(token_ids[:0], words).shape == (0, 16)


def test_parts_give_the_same_means(words, monkeypatch):
    token_ids = torch.randint(-1, 50, (11, 4), dtype=torch.int32)
    expected = mean_words(token_ids, words)
    monkeypatch.setattr("modeling_unimp.item_embeddings.ITEMS_AT_ONCE", 3)
    torch.testing.assert_close(mean_words(token_ids, words), expected)


@pytest.mark.parametrize("item_rows", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_reading_some_items_is_reading_them_out_of_all(words, item_rows, tied):
    module = embeddings_of(item_rows, tie_item_rows=tied)
    all_rows = module.read("items", None, *module._content(words))
    ids = torch.tensor([12 + 4, 0, 12 + 0, 11, 12 + 4, 5])
    rows = module("input_rows", ids, None, words)
    torch.testing.assert_close(rows[[0, 2, 4]], all_rows[[4, 0, 4]])
    assert torch.equal(rows[[1, 3, 5]], module.read.tokens[[0, 11, 5]])
    assert torch.equal(module("output_rows", words), all_rows) == tied
    hidden = torch.randn(3, 16)
    tokens = (module.read if tied else module.write).tokens
    assert torch.equal(module("token_logits", hidden, slice(2, 9)), hidden @ tokens[2:9].T)
    torch.testing.assert_close(module("item_logits", hidden, words), hidden @ module("output_rows", words).T)


def test_content_by_hand(words):
    module = embeddings_of("both", content_picture_size=0)
    content = module.read.content
    token_ids = torch.full((6, 4), -1)
    token_ids[2, :2] = torch.tensor([7, 9])
    module.set_content(token_ids)
    rows = module.read("items", None, *module._content(words))
    mean = (words.weight[7] + words.weight[9]) / 2
    normed = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(rows[2], module.read.items[2] + content.text_proj.weight @ normed)
    # Without text, only the free part is left.
    torch.testing.assert_close(rows[3], module.read.items[3])


def test_an_item_without_a_picture_gets_nothing_for_it(words):
    module = embeddings_of("content")
    token_ids, pictures = content_of(6, module.config)
    pictures[1] = 0
    module.set_content(token_ids, pictures)
    without = embeddings_of("content", content_picture_size=0)
    without.read.content.text_proj.load_state_dict(module.read.content.text_proj.state_dict())
    without.set_content(token_ids)
    rows, expected = (each.read("items", None, *each._content(words)) for each in (module, without))
    torch.testing.assert_close(rows[1], expected[1])


@pytest.mark.parametrize("item_rows", KINDS)
def test_gradients_reach_what_was_read(words, item_rows):
    module = embeddings_of(item_rows)
    module("input_rows", torch.tensor([12 + 4, 3]), None, words).sum().backward()
    assert module.read.tokens.grad.any(1).nonzero().flatten().tolist() == [3]
    if item_rows != "content":
        assert module.read.items.grad.any(1).nonzero().flatten().tolist() == [4]
    if item_rows != "free":
        assert module.read.content.text_proj.weight.grad.any()
        assert module.read.content.picture_proj.weight.grad.any()


@pytest.mark.parametrize("item_rows", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_added_items_leave_the_old_rows(words, item_rows, tied):
    module = embeddings_of(item_rows, tie_item_rows=tied)
    old_out = module("output_rows", words)
    old_in = module("input_rows", torch.arange(12, 18), None, words)
    if item_rows == "free":
        module.add_items(3)
    else:
        module.add_items(3, *content_of(3, module.config, seed=9))
    module.config.num_items += 3
    assert torch.equal(module("output_rows", words)[:6], old_out)
    assert torch.equal(module("input_rows", torch.arange(12, 18), None, words), old_in)
    assert module("output_rows", words).shape == (9, 16)
    if item_rows == "free":
        torch.testing.assert_close(module.read.items[6:], module.read.items[:6].mean(0).expand(3, -1))
    if item_rows == "both":
        assert not module.read.items[6:].any()


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
    module = embeddings_of("both")
    names = set(module.state_dict())
    assert {"content_token_ids", "content_pictures"} <= names
    assert module.content_token_ids.dtype == torch.int32
    assert not {"content_token_ids", "content_pictures"} & set(embeddings_of("free").state_dict())


def test_changed_content_changes_the_rows(words):
    """What is remembered of it, its distinct words, is not remembered beyond."""
    module = embeddings_of("content", content_picture_size=0)
    first = module("output_rows", words)
    module.set_content(module.content_token_ids.flip(0).long())
    torch.testing.assert_close(module("output_rows", words), first.flip(0))
    module.content_token_ids.copy_(module.content_token_ids.flip(0))  # in place, as a checkpoint is loaded
    torch.testing.assert_close(module("output_rows", words), first)


def test_content_is_cut_and_filled():
    module = embeddings_of("content", content_picture_size=0)
    module.set_content(torch.full((6, 2), 7))
    assert module.content_token_ids[0].tolist() == [7, 7, -1, -1]
    module.set_content(torch.arange(6).expand(6, -1))
    assert module.content_token_ids[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "item_rows, content, message",
    [
        ("free", (torch.zeros(6, 4), None), "item_rows='free' makes nothing from content"),
        ("both", (torch.zeros(5, 4), None), r"content_token_ids of shape \(5, 4\): .* needs \(6, length\)"),
        ("both", (torch.full((6, 4), 50), torch.zeros(6, 5)), "content_token_ids holds the id 50"),
        ("both", (torch.zeros(6, 4), None), r"content_pictures of shape None: content_picture_size asks for \(6, 5\)"),
        ("both", (torch.zeros(6, 4), torch.zeros(6, 3)), r"content_pictures of shape \(6, 3\)"),
    ],
)
def test_wrong_content(item_rows, content, message):
    with pytest.raises(ValueError, match=message):
        embeddings_of(item_rows).set_content(content[0].long(), content[1])


def test_items_without_content_cannot_be_added_to_content_rows():
    with pytest.raises(ValueError, match=r"content_token_ids of shape None: item_rows='both' needs \(2, length\)"):
        embeddings_of("both").add_items(2)
    with pytest.raises(ValueError, match="add items by their number alone"):
        embeddings_of("free").add_items(2, torch.zeros(2, 4))
