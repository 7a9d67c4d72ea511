"""Requests in, outputs out: the same in any batch, words alone in an explanation."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from shop import make_model, make_model_processor
from transformers import GenerationConfig

from modeling_unimp.answering import WordsOnly, outputs_of

HISTORIES = [
    ["m1"],
    ["h1", "s2", "m2"],
    ["s2"],
    [{"item_id": "s1", "rating": 5}, {"title": "A green hat"}],
    ["h2", "m1"],
]
REQUESTS = {
    "items": [{"task": "recommend", "history": history} for history in HISTORIES]
    + [{"task": "search", "history": ["s2"], "query": "shoe"}],
    "stars": [{"task": "rate", "history": history, "item": "s1"} for history in HISTORIES],
    "decisions": [
        {"task": "select", "history": history, "candidates": ["s1", "h2", "m2", {"title": "A hat"}][:count]}
        for history, count in zip(HISTORIES, (2, 4, 1, 3, 4), strict=True)
    ],
    "words": [{"task": "explain", "history": history, "item": "h2"} for history in HISTORIES],
}


@pytest.fixture(scope="module")
def processor():
    return make_model_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor)


def answered(model, processor, group, **kwargs):
    return list(outputs_of(model, processor, REQUESTS[group], group, **kwargs))


@pytest.mark.parametrize("batch_size", [2, 3, 32])
@pytest.mark.parametrize("group", REQUESTS)
def test_batches_of_ragged_shoppers_are_one_by_one(model, processor, group, batch_size):
    more = {"max_new_tokens": 6} if group == "words" else {}
    alone = answered(model, processor, group, batch_size=1, **more)
    together = answered(model, processor, group, batch_size=batch_size, **more)
    assert len(alone) == len(together) == len(REQUESTS[group])
    for first, second in zip(alone, together, strict=True):
        if group == "words":
            assert first == second
        else:
            np.testing.assert_allclose(first, second, atol=1e-5)


def test_the_outputs_are_what_tasks_read(model, processor):
    assert {logits.shape for logits in answered(model, processor, "items")} == {(6,)}
    for probabilities in answered(model, processor, "stars"):
        assert probabilities.shape == (5,) and probabilities.sum() == pytest.approx(1)
    lengths = [len(row) for row in answered(model, processor, "decisions")]
    assert lengths == [2, 4, 1, 3, 4]
    assert all(((row > 0) & (row < 1)).all() for row in answered(model, processor, "decisions"))
    assert all(isinstance(text, str) for text in answered(model, processor, "words", max_new_tokens=3))


def test_item_logits_are_those_of_the_full_softmax(model, processor):
    for request, logits in zip(REQUESTS["items"], answered(model, processor, "items"), strict=True):
        inputs = processor(requests=[request])
        del inputs["task_ids"]
        start, stop = model.config.group_slices["items"]
        with torch.no_grad():
            full = model(**inputs).logits[0, -1].softmax(-1)[start:stop]
            scores, numbers = model.rank(top_k=6, **inputs)
        order = full.argsort(descending=True).tolist()
        assert np.argsort(-logits, kind="stable").tolist() == order == numbers[0].tolist()
        torch.testing.assert_close(torch.from_numpy(logits).softmax(-1), full / full.sum())
        torch.testing.assert_close(scores[0], (full / full.sum())[order])


def test_decisions_belong_to_their_candidate(model, processor):
    """A candidate keeps its probability when candidates after it change: the model reads from left to right."""
    history, candidates = ["m1", "h1"], ["s1", "h2", "m2"]
    requests = [{"task": "select", "history": history, "candidates": candidates}] * 2
    requests[1] = requests[1] | {"candidates": [*reversed(candidates)]}
    forwards, backwards = outputs_of(model, processor, requests, "decisions")
    inputs = processor(requests=requests[:1])
    del inputs["task_ids"]
    with torch.no_grad():
        slots = model(**inputs).logits[0, -3:]
    no, yes = (processor.control.decision(chosen) for chosen in (False, True))
    expected = slots[:, [no, yes]].softmax(-1)[:, 1]
    np.testing.assert_allclose(forwards, expected.numpy(), atol=1e-5)
    assert not np.allclose(forwards, backwards[::-1], atol=1e-5)


def test_words_only():
    scores = torch.tensor([[0.0, 1.0, 9.0, 8.0], [5.0, 0.0, 7.0, 1.0]])
    allowed = WordsOnly(2)(torch.zeros(2, 1, dtype=torch.long), scores)
    assert torch.equal(allowed[:, :2], scores[:, :2]) and (allowed[:, 2:] == float("-inf")).all()
    assert scores[0, 2] == 9


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 5.0}])
def test_a_model_that_longs_to_write_item_tokens_writes_words(processor, how, monkeypatch):
    model = make_model(processor)
    original, written = model.generate, []

    def generate(**kwargs):
        out = original(**kwargs)
        written.append(out[:, kwargs["input_ids"].shape[1] :])
        return out

    monkeypatch.setattr(model, "generate", generate)
    # Rows as long as these, in all directions, win every softmax over the vocabulary.
    for rows in (model.model.item_embeddings.write.tokens, model.model.item_embeddings.write.items):
        torch.nn.init.normal_(rows, std=50.0)
    inputs = processor(requests=REQUESTS["words"][:2])
    del inputs["task_ids"]
    with torch.no_grad():
        assert (model(**inputs).logits[:, -1].argmax(-1) >= processor.first_token_id).all()
    assert len(answered(model, processor, "words", max_new_tokens=8, **how)) == len(HISTORIES)
    ids = torch.cat(written)
    is_padding = ids == processor.control.pad
    assert (ids < processor.first_token_id)[~is_padding].all()


def test_a_callers_logits_processor_comes_on_top(model, processor):
    class Only(WordsOnly):
        def __call__(self, input_ids, scores):
            forced = torch.full_like(scores, float("-inf"))
            forced[:, processor.tokenizer.eos_token_id] = 0
            return forced

    assert set(answered(model, processor, "words", logits_processor=[Only(0)])) == {""}


def test_no_mode_is_on_while_the_caller_has_the_answers(model, processor):
    """Two readers in turns, one of them never finished: gradients and dropout are as the caller left them."""
    model.train()
    try:
        one = outputs_of(model, processor, REQUESTS["stars"], "stars", batch_size=2)
        other = outputs_of(model, processor, REQUESTS["stars"], "stars", batch_size=3)
        for _ in range(4):
            next(one), next(other)
            assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        list(one)
        other.close()
        assert model.training and not torch.is_inference_mode_enabled()
        with pytest.raises(ValueError, match="request 1: the history"):
            list(outputs_of(model, processor, [REQUESTS["stars"][0], {"task": "rate", "item": "m1"}], "stars"))
        assert model.training
    finally:
        model.eval()


def test_threads_answer_as_one_does_with_a_model_that_was_training(processor):
    """Dropout is on as soon as one of them puts the model back too early."""
    model = make_model(processor, dropout=0.5)
    alone = answered(model, processor, "items")
    model.train()
    model.model.language_model.eval()  # as it was found it is left
    before = {name: part.training for name, part in model.named_modules()}

    def answer(number):
        request = REQUESTS["items"][number % len(alone)]
        return next(iter(outputs_of(model, processor, [request], "items")))

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(answer, range(96))):
            np.testing.assert_allclose(found, alone[number % len(alone)], atol=1e-5)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert model.training


@pytest.mark.parametrize("group", ["stars", "decisions", "words"])
def test_stars_of_what_is_asked_about_are_not_read(model, processor, group):
    """A row of a table has them: in a prompt they would be the answer."""
    asked = {"stars": "rate", "decisions": "select", "words": "explain"}[group]
    plain = {"task": asked, "history": [{"item_id": "m1", "rating": 2}]}
    of_table = [{"item_id": item, "rating": stars} for item, stars in (("h2", 5), ("s1", 1))]
    if group == "decisions":
        plain, rated = plain | {"candidates": ["h2", "s1"]}, plain | {"candidates": of_table}
    else:
        plain, rated = plain | {"item": "h2"}, plain | {"item": of_table[0]}
    found = [next(iter(outputs_of(model, processor, [each], group))) for each in (plain, rated)]
    assert np.array_equal(found[0], found[1])
    assert processor(requests=[plain])["input_ids"].tolist() == processor(requests=[rated])["input_ids"].tolist()


@pytest.mark.parametrize("query", ["Shoe", "  SHOE "])
def test_capitals_of_a_query_are_the_shops(model, query):
    """The network has learnt the words as the shop writes them. What is no value of its stays as it came."""
    processor = make_model_processor(query_attribute="category")

    def read(query):
        request = {"task": "search", "history": ["s2"], "query": query}
        return processor(requests=[request])["input_ids"].tolist()

    assert read(query) == read("shoe")
    assert read("Red SHOE") != read("red shoe")


@pytest.mark.parametrize("where", ["argument", "config", "own"])
@pytest.mark.parametrize(("name", "value"), [("num_return_sequences", 2), ("return_dict_in_generate", True)])
def test_more_than_a_row_of_words_is_refused_wherever_it_is_asked_for(processor, where, name, value):
    model = make_model(processor)
    options = {name: value, "num_beams": 2}
    if where == "config":
        options = {"generation_config": GenerationConfig(**options)}
    elif where == "own":
        model.generation_config.update(**options)
        options = {}
    with pytest.raises(ValueError, match=f"{name}={value}: an answer is one text or picture a request"):
        answered(model, processor, "words", **options)
    # What has nothing to do with words is answered.
    if where == "own":
        assert len(answered(model, processor, "stars")) == len(REQUESTS["stars"])


def test_no_logits_processor_may_be_named(model, processor):
    assert answered(model, processor, "words", max_new_tokens=4, logits_processor=None) == answered(
        model, processor, "words", max_new_tokens=4
    )


def test_nothing_asked_nothing_answered(model, processor):
    assert list(outputs_of(model, processor, [], "items")) == []
    with pytest.raises(ValueError, match="batch_size=0"):
        list(outputs_of(model, processor, REQUESTS["items"], "items", batch_size=0))
