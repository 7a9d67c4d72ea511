"""A history that is read once: every answer is that of the whole sequence, and nothing is read twice."""

import contextlib
import copy
import pickle

import pytest
import torch
from shop import (
    REQUESTS,
    make_image_processor,
    make_imagining_model,
    make_model,
    make_model_processor,
    make_processor,
    picture,
)
from test_pipeline_unimp import close
from tiny_models import config_of, each_fusion, each_text_model, model_of

from modeling_unimp import PersonalizationPipeline
from modeling_unimp.picture_latents import PictureLatents
from modeling_unimp.weights_version import WeightsVersion

WRITING = {"max_new_tokens": 5}
HISTORY = ["h1", {"item_id": "m1", "rating": 4}, {"title": "Tin mug", "image": picture("grey")}, "s2", "h1"]
EVENT = {"item_id": "m2", "rating": 5}


def asked(history, *tasks):
    return [request | {"history": history} for request in REQUESTS if request["task"] in tasks or not tasks]


FIVE = ("recommend", "search", "rate", "explain", "select")


def make_unimp(model_type="llama", fusion="exclusive", **options):
    tokens = config_of(fusion=fusion).num_image_tokens
    processor = make_processor(image_processor=make_image_processor(16), num_image_tokens=tokens, **options)
    # As recipes have it that write histories in short.
    at_eoc = options.get("history_format") == "compact"
    shop = {"num_items": 6, "num_codes": 0, "codes_per_picture": 0, "item_at_eoc": at_eoc}
    model = model_of(model_type, fusion, text={"vocab_size": processor.first_token_id}, **shop)
    # Words that no text has would be written otherwise, and not be seen in it.
    with torch.no_grad():
        model.lm_head.weight[len(processor.tokenizer) :] = 0
    return PersonalizationPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def unimp():
    return make_unimp()


@contextlib.contextmanager
def work_of(unimp):
    """Rows and tokens of each forward of the language model, and how many pictures the tower looked at."""
    done = {"tokens": [], "pictures": 0}

    def reading(module, args, kwargs, output):
        done["tokens"].append(tuple(kwargs["inputs_embeds"].shape[:2]))

    def looking(module, args, kwargs, output):
        done["pictures"] += len(kwargs["pixel_values"])

    hooks = [unimp.model.model.language_model.register_forward_hook(reading, with_kwargs=True)]
    if unimp.model.model.vision_tower is not None:
        hooks.append(unimp.model.model.vision_tower.register_forward_hook(looking, with_kwargs=True))
    try:
        yield done
    finally:
        for hook in hooks:
            hook.remove()


def one_by_one(unimp, requests, **options):
    """As if nobody had asked anything before."""
    fresh = PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu")
    return [fresh(request, **options) for request in requests]


# ------------------------------------------------------------------------------------------------------ equal answers


@pytest.mark.parametrize("history_format", ["full", "compact"])
@each_fusion
def test_answers_from_a_state_are_those_of_the_whole_sequence(fusion, history_format):
    """Rows of several lengths in a batch, of which early fusion must not cut a picture in two; beams, and sampling."""
    unimp = make_unimp(fusion=fusion, history_format=history_format)
    requests = [*asked(HISTORY, *FIVE), *asked(["m2", "s1"], *FIVE), asked(HISTORY, "search")[0] | {"query": "a cup"}]
    for options in (WRITING, WRITING | {"num_beams": 2}):
        expected = one_by_one(unimp, requests, **options)
        assert close(unimp(requests, **options), expected)
        states = [unimp.read(history) for history in (HISTORY, ["m2", "s1"])]
        with_states = [request | {"history": states[request["history"] != HISTORY]} for request in requests]
        assert close(unimp(with_states, **options), expected)
        assert close(unimp(with_states[0]), expected[0])


@each_text_model
def test_with_every_kind_of_language_model(model_type):
    """A sliding window that is shorter than the history, positions that are learnt, rotations."""
    unimp = make_unimp(model_type)
    requests = asked(HISTORY, *FIVE)
    assert close(unimp(asked(unimp.read(HISTORY), *FIVE), **WRITING), one_by_one(unimp, requests, **WRITING))


def test_pictures_are_imagined_from_a_state():
    model, processor = make_imagining_model()
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    (request,) = asked(HISTORY[:2], "imagine")
    (expected,) = one_by_one(unimp, [request], use_cache=False)
    state = unimp.read(HISTORY[:2])
    for answer in (unimp(request), unimp(request | {"history": state}), unimp([request, request])[1]):
        assert answer["picture"].tobytes() == expected["picture"].tobytes()
        assert close(answer | {"picture": None}, expected | {"picture": None})


def test_what_does_not_fit_beside_a_question_is_read_with_it():
    """A longer question leaves room for fewer items: its sequence begins with another one than the state holds."""
    unimp = make_unimp(max_length=70)
    state = unimp.read(HISTORY)
    assert len(state.tokens) <= 70
    requests = asked(HISTORY, *FIVE)
    expected = one_by_one(unimp, requests, **WRITING)
    assert close(unimp(asked(state, *FIVE), **WRITING), expected) and close(unimp(requests, **WRITING), expected)


def test_another_cache_may_be_asked_for(unimp):
    (request,) = asked(HISTORY, "explain")
    (expected,) = one_by_one(unimp, [request], **WRITING)
    assert len(expected["text"]) > 5
    state = unimp.read(HISTORY)
    for options in ({"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2}):
        assert unimp(request | {"history": state}, **WRITING, **options) == expected


# ---------------------------------------------------------------------------------------------------------- less work


def test_nothing_is_read_twice(unimp):
    requests = asked(HISTORY, *FIVE)
    options = {"max_new_tokens": 1}
    with work_of(unimp) as alone:
        one_by_one(unimp, requests, **options)
    whole = [length for _, length in alone["tokens"]]
    with work_of(unimp) as reading:
        state = unimp.read(HISTORY)
    ((_, prefix),) = reading["tokens"]
    assert prefix == len(state.tokens) and all(length > prefix for length in whole)
    with work_of(unimp) as done:
        unimp(asked(state, *FIVE), **options)
    # Recommend and search are one batch; its longer row is that of search.
    tails = [length - prefix for length in whole]
    assert done["tokens"] == [(2, max(tails[:2])), *((1, tail) for tail in tails[2:])]
    with work_of(unimp) as together:
        unimp(requests, **options)
    assert together["tokens"] == [(1, prefix), *done["tokens"]]
    # A history of which one thing is asked is read with it.
    with work_of(unimp) as once:
        unimp([requests[2], requests[3] | {"history": ["m2"]}], **options)
    assert once["tokens"][0] == (1, whole[2]) and len(once["tokens"]) == 2


def test_an_event_is_read_alone_until_the_window_slides():
    unimp = make_unimp(history_length=3)
    state, states = unimp.read(["h1", "s1"]), []
    for event in (EVENT, "h2"):
        with work_of(unimp) as done:
            states.append(unimp.extend(state, event))
        ((_, read),) = done["tokens"]
        slides = len(state.history) == 3
        assert read == len(states[-1].tokens) - (1 if slides else len(state.tokens))
        state = states[-1]
    assert state.history == ["h1", "s1", EVENT, "h2"]
    for extended in states:
        requests = asked(extended.history, *FIVE)
        assert close(unimp(asked(extended, *FIVE), **WRITING), one_by_one(unimp, requests, **WRITING))


def test_a_server_looks_at_a_picture_once():
    unimp = make_unimp()
    with work_of(unimp) as first:
        answers = unimp(asked(HISTORY, *FIVE), **WRITING)
    assert first["pictures"] == 3, "the other items asked about have pictures of the same colours"
    with work_of(unimp) as second:
        assert close(unimp(asked(HISTORY, *FIVE), **WRITING), answers)
    assert second["pictures"] == 0
    unimp.add_items([{"item_id": "new", "title": "New", "image": picture("red", 48)}])
    unimp.update_items([{"item_id": "m1", "image": picture("green")}])
    with work_of(unimp) as third:
        unimp(asked([*HISTORY, "new"], "recommend"))
    assert third["pictures"] == 0, "both are known from other items"
    unimp.model.model.resampler.latents.data = unimp.model.model.resampler.latents.data + 1.0
    with work_of(unimp) as other_weights:
        unimp(asked(HISTORY, "recommend"))
    assert other_weights["pictures"] == 3


# ----------------------------------------------------------------------------------------------- always right answers


def test_no_answer_changes_a_state_and_a_pickle_is_as_good(unimp):
    state = unimp.read(HISTORY)
    before = pickle.dumps(state)
    requests = asked(HISTORY, *FIVE)
    expected = one_by_one(unimp, requests, **WRITING)
    for options in (WRITING, WRITING | {"num_beams": 2}):
        unimp(asked(state, *FIVE), **options)
    assert pickle.dumps(state) == before
    again = pickle.loads(before)
    # As in another process that has the same model.
    other = PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu")
    with work_of(other) as done:
        assert close(other(asked(again, *FIVE), **WRITING), expected)
    assert done["pictures"] == 0 and done["tokens"][0][1] < len(state.tokens)
    assert again.history == state.history and again.nbytes == state.nbytes > 0


def test_a_state_that_was_tampered_with_answers_its_own_requests_alone(unimp):
    state = pickle.loads(pickle.dumps(unimp.read(HISTORY)))
    for latents in state.latents.values():
        latents.fill_(50.0)
    fresh = PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu")
    # The same pictures, in one call with the state and after it, and in another state.
    others = asked(HISTORY, *FIVE)
    tampered = asked(state, "rate")
    mixed = fresh([*tampered, *others, *tampered], **WRITING)
    expected = one_by_one(unimp, others, **WRITING)
    assert close(mixed[1:-1], expected) and close(fresh(others, **WRITING), expected)
    assert close(fresh(asked(fresh.read(HISTORY), *FIVE), **WRITING), expected)


def test_a_state_that_goes_on_looks_at_the_new_picture_alone(unimp):
    state = pickle.loads(pickle.dumps(unimp.read(HISTORY)))
    other = PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu")
    with work_of(other) as done:
        extended = other.extend(state, EVENT)
        assert done["pictures"] == 1 and state.latents.keys() - extended.latents.keys() == set()
        other(asked(extended, "recommend"))
        assert done["pictures"] == 1
    assert close(other(asked([*HISTORY, EVENT], *FIVE), **WRITING), other(asked(extended, *FIVE), **WRITING))


@pytest.mark.parametrize("item_rows", ["free", "content"])
def test_a_shop_or_model_that_has_changed_is_read_anew(item_rows):
    processor = make_model_processor()
    unimp = PersonalizationPipeline(model=make_model(processor, item_rows=item_rows), processor=processor)
    state = unimp.read(HISTORY)

    # Not search: of content rows, which know words that items share, two are equal.
    tasks = ("recommend", "rate", "explain", "select")

    def check():
        expected = one_by_one(unimp, asked(HISTORY, *tasks), **WRITING)
        assert close(unimp(asked(state, *tasks), **WRITING), expected)
        longer = one_by_one(unimp, asked([*HISTORY, "new"], *tasks), **WRITING)
        assert close(unimp(asked(unimp.extend(state, "new"), *tasks), **WRITING), longer)
        return expected

    unimp.add_items([{"item_id": "new", "title": "New", "image": picture("blue")}])
    answers = [check()]
    for change in ({"title": "Teal hat"}, {"image": picture("red")}):
        unimp.update_items([{"item_id": "h1"} | change])
        answers.append(check())
    with torch.no_grad():
        unimp.model.model.language_model.layers[0].mlp.up_proj.weight[0] += 1.0
    answers.append(check())
    for parameter in unimp.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(unimp.model.parameters(), lr=1e-3, fused=True).step()
    answers.append(check())
    ratings = [answer[1]["stars"] for answer in answers]
    assert len(set(ratings)) == 5


@pytest.mark.parametrize("item_rows", ["free", "content"])
def test_weights_that_were_written_through_data_are_noticed_once_that_is_said(item_rows):
    """As the README says."""
    processor = make_model_processor()
    unimp = PersonalizationPipeline(model=make_model(processor, item_rows=item_rows), processor=processor)
    state = unimp.read(HISTORY)
    before = unimp(asked(state, "recommend", "rate"))
    for weight in unimp.model.parameters():
        weight.data.copy_(weight.data * 1.5)
    torch.autograd.graph.increment_version(unimp.model.parameters())
    model = copy.deepcopy(unimp.model)  # which has read nothing with other weights
    model.load_state_dict(model.state_dict())
    expected = PersonalizationPipeline(model=model, processor=processor)(asked(HISTORY, "recommend", "rate"))
    assert close(unimp(asked(state, "recommend", "rate")), expected) and not close(before, expected)


def test_what_was_read_under_autocast_is_not_taken_outside_of_it(unimp):
    requests = asked(HISTORY, "recommend", "rate")

    def reading():
        with work_of(unimp) as done:
            unimp(asked(state, "recommend", "rate"))
        assert done["pictures"] == 3 and done["tokens"][0][1] >= len(state.tokens)

    with torch.autocast("cpu", torch.bfloat16):
        state = unimp.read(HISTORY)
        assert close(unimp(asked(state, "recommend", "rate")), unimp(requests))
    reading()
    assert close(unimp(asked(state, "recommend", "rate")), one_by_one(unimp, requests))
    state = unimp.read(HISTORY)
    with torch.autocast("cpu", torch.bfloat16):
        reading()


def test_a_state_stands_wherever_a_history_does(unimp):
    state = unimp.read(HISTORY)
    (request,) = asked(HISTORY, "rate")
    batch, same = unimp.processor(requests=[request | {"history": state}]), unimp.processor(requests=[request])
    assert torch.equal(batch["input_ids"], same["input_ids"])
    assert unimp.read([]).history == [] and unimp.extend(unimp.read([]), "m1").history == ["m1"]
    with pytest.raises(ValueError, match="history item 0: item 'zzz'"):
        unimp.read(["zzz"])
    with pytest.raises(ValueError, match="expected a list of items"):
        unimp.read(None)


def test_latents_are_kept_within_their_bytes():
    latents = PictureLatents(max_bytes=24)
    for number in range(3):
        latents.keep(str(number), torch.full((3,), float(number)))
        latents.get("0")
    assert list(latents) == ["2", "0"] and latents.nbytes == 24 and latents.get("1") is None
    latents.keep("large", torch.zeros(7))
    assert "large" not in latents and len(latents) == 2


def test_a_version_is_of_the_tensors_themselves():
    """One that was replaced differs, though it may stand where the other stood."""
    module = torch.nn.Linear(2, 2)
    before = WeightsVersion(module)
    assert before == WeightsVersion(module) and before != WeightsVersion(torch.nn.Linear(2, 2))
    with torch.no_grad():
        module.bias.add_(0)
    assert (written := WeightsVersion(module)) != before
    module.weight = torch.nn.Parameter(module.weight.detach())  # the same memory
    assert WeightsVersion(module) != written
    with torch.inference_mode():
        unknown = torch.nn.Linear(2, 2)
    assert WeightsVersion(unknown) != WeightsVersion(unknown)
