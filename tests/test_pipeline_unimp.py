"""pipeline("personalization"): what loads it, what it answers, and what it says to silly input."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from shop import make_imagining_model, make_model, make_model_processor, picture
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    GenerationConfig,
    SequenceBiasLogitsProcessor,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration
from processing_unimp import Catalogue, UniMPProcessor

ROOT = Path(__file__).resolve().parent.parent
HISTORY = ["h1", {"item_id": "m1", "rating": 4}]
REQUESTS = {
    "recommend": {"task": "recommend", "history": HISTORY},
    "search": {"task": "search", "history": HISTORY, "query": "hat"},
    "rate": {"task": "rate", "history": HISTORY, "item": "s1"},
    "explain": {"task": "explain", "history": HISTORY, "item": "s1"},
    "select": {"task": "select", "history": HISTORY, "candidates": ["s1", "h2", "m2"]},
}
RECOMMEND = REQUESTS["recommend"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What training leaves behind: ./unimp in some directory."""
    folder = tmp_path_factory.mktemp("somewhere") / "unimp"
    processor = make_model_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unimp(folder) -> PersonalizationPipeline:
    return pipeline("personalization", model=str(folder), device="cpu")


@pytest.fixture
def own_unimp(unimp) -> PersonalizationPipeline:
    """One whose catalogue a test may change."""
    processor = copy.copy(unimp.processor)
    processor.catalogue = Catalogue.from_items([dict(item) for item in _items(unimp)])
    return PersonalizationPipeline(model=unimp.model, processor=processor, device="cpu")


def _items(unimp) -> list[dict]:
    catalogue = unimp.processor.catalogue
    return [catalogue.item(item_id) for item_id in catalogue.item_ids]


def close(first, second) -> bool:
    """Equal answers, but for the rounding of floats."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(close, first, second))
    return first == pytest.approx(second, abs=1e-5) if isinstance(first, float) else first == second


# ---------------------------------------------------------------------------------------------------------- loading


def test_the_auto_classes_load_the_folder(folder, unimp):
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert isinstance(model, UniMPForConditionalGeneration) and isinstance(processor, UniMPProcessor)
    assert close(PersonalizationPipeline(model=model, processor=processor, device="cpu")(RECOMMEND), unimp(RECOMMEND))


def test_the_bare_name_is_the_folder_in_the_working_directory(folder, unimp, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert isinstance(AutoModel.from_pretrained("unimp"), UniMPForConditionalGeneration)
    assert AutoProcessor.from_pretrained("unimp").catalogue.item_ids == unimp.processor.catalogue.item_ids
    assert close(pipeline("personalization", device="cpu")(RECOMMEND), unimp(RECOMMEND))


def test_it_answers_in_a_fresh_process_with_nothing_but_the_folder(folder, unimp, tmp_path):
    shutil.copytree(folder, tmp_path / "unimp")
    script = (
        "import json, sys, modeling_unimp\n"
        "from transformers import pipeline\n"
        "unimp = pipeline('personalization', device='cpu')\n"
        "print('FOUND', json.dumps(unimp(json.loads(sys.argv[1]))))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(list(REQUESTS.values()))],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )
    found = next((line for line in done.stdout.splitlines() if line.startswith("FOUND")), None)
    assert found is not None, done.stderr[-3000:]
    here = json.loads(json.dumps(unimp(list(REQUESTS.values()))))
    assert close(json.loads(found.removeprefix("FOUND ")), here)


def test_what_it_saves_it_loads(unimp, tmp_path):
    unimp.save_pretrained(tmp_path)
    assert close(pipeline("personalization", model=str(tmp_path), device="cpu")(RECOMMEND), unimp(RECOMMEND))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"item_id": f"x{n}", "title": "x"} for n in range(6)], "would stand for other items"),
        ([{"item_id": f"x{n}", "title": "x"} for n in range(7)], "holds 7 items and this model 6 item tokens"),
    ],
)
def test_the_catalogue_of_another_shop_is_refused(folder, tmp_path, items, message):
    shutil.copytree(folder, tmp_path / "unimp")
    Catalogue.from_items(items).save(tmp_path / "unimp")
    with pytest.raises(ValueError, match=message):
        pipeline("personalization", model=str(tmp_path / "unimp"), device="cpu")


def test_a_catalogue_that_grew_without_the_model_is_refused(own_unimp):
    own_unimp(RECOMMEND)
    own_unimp.processor.catalogue.add([{"item_id": "new", "title": "New hat"}])
    with pytest.raises(ValueError, match="call model.add_items"):
        own_unimp(RECOMMEND)


# -------------------------------------------------------------------------------------------------- form of answers


def test_a_ranking(unimp):
    answer = unimp(RECOMMEND, top_k=3)
    assert set(answer) == {"task", "items"} and len(answer["items"]) == 3
    best = answer["items"][0]
    assert set(best) == {"item_id", "title", "category", "price", "score"}
    assert best["title"] == unimp.processor.catalogue.item(best["item_id"])["title"]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1 + 1e-6


def test_a_ranking_is_the_softmax_over_the_items_allowed(unimp):
    inputs = unimp.processor(requests=[RECOMMEND])
    inputs.pop("task_ids")
    start, stop = unimp.model.config.group_slices["items"]
    with torch.no_grad():
        logits = unimp.model(**inputs).logits[0, -1, start:stop]
    wanted = {"s1", "h2", "m2"}
    numbers = [unimp.processor.catalogue.number(item_id) for item_id in wanted]
    shares = dict(zip(wanted, logits[numbers].softmax(-1).tolist(), strict=True))
    answer = unimp(RECOMMEND, allowed=wanted, exclude_seen=False)
    assert {item["item_id"]: item["score"] for item in answer["items"]} == pytest.approx(shares, abs=1e-5)
    assert sum(item["score"] for item in answer["items"]) == pytest.approx(1)
    everything = unimp(RECOMMEND, exclude_seen=False, top_k=99)["items"]
    order = [unimp.processor.catalogue.number(item["item_id"]) for item in everything]
    assert order == logits.argsort(descending=True).tolist()


def test_search_has_the_form_of_recommend(unimp):
    answer = unimp(REQUESTS["search"])
    assert answer["task"] == "search" and set(answer["items"][0]) >= {"item_id", "title", "score"}
    assert answer["items"] != unimp(REQUESTS["search"] | {"query": "red shoe"})["items"]


def test_stars(unimp):
    answer = unimp(REQUESTS["rate"])
    assert set(answer) == {"task", "stars", "most_likely", "probabilities", "entropy"}
    assert list(answer["probabilities"]) == [1, 2, 3, 4, 5]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["stars"] == pytest.approx(sum(star * p for star, p in answer["probabilities"].items()))
    assert answer["probabilities"][answer["most_likely"]] == max(answer["probabilities"].values())


def test_a_selection(unimp):
    answer = unimp(REQUESTS["select"])
    assert [item["item_id"] for item in answer["items"]] == REQUESTS["select"]["candidates"]
    assert all(item["title"] and 0 < item["score"] < 1 for item in answer["items"])
    # Which are selected is the task's rule; none is selected before a likelier one.
    assert [item["selected"] for item in sorted(answer["items"], key=lambda item: -item["score"])][0] is True
    chosen = [item["score"] for item in answer["items"] if item["selected"]]
    assert min(chosen) >= max((item["score"] for item in answer["items"] if not item["selected"]), default=0)


def test_an_explanation(unimp):
    answer = unimp(REQUESTS["explain"], max_new_tokens=5)
    assert set(answer) == {"task", "text", "grounds"} and isinstance(answer["text"], str)


def test_answers_are_plain(unimp):
    assert json.loads(json.dumps(unimp(list(REQUESTS.values()), max_new_tokens=3)))


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_a_list_of_mixed_tasks_is_one_by_one(unimp, batch_size):
    requests = [*REQUESTS.values(), {"task": "recommend", "history": ["s2"]}, *reversed(REQUESTS.values())]
    together = unimp(requests, batch_size=batch_size, max_new_tokens=4)
    assert [answer["task"] for answer in together] == [request["task"] for request in requests]
    assert close(together, [unimp(request, max_new_tokens=4) for request in requests])
    assert close(together, unimp(tuple(requests), max_new_tokens=4))
    assert unimp([]) == []


def test_a_generator_is_answered_lazily(unimp):
    taken = []

    def requests():
        for number in range(7):
            taken.append(number)
            yield RECOMMEND

    answers = unimp(requests(), batch_size=2, top_k=1)
    assert not taken
    assert close(next(answers), unimp(RECOMMEND, top_k=1))
    assert taken == [0, 1]
    assert len(list(answers)) == 6 and len(taken) == 7


def test_requests_are_left_as_they_were(unimp):
    requests = copy.deepcopy(list(REQUESTS.values()))
    unimp(requests, max_new_tokens=2)
    assert requests == list(REQUESTS.values())


# ------------------------------------------------------------------------------------------------- what may be ranked


def ranked(unimp, request=RECOMMEND, **kwargs) -> set[str]:
    return {item["item_id"] for item in unimp(request, top_k=99, **kwargs)["items"]}


def test_seen_items_are_left_out_of_recommend_alone(unimp):
    every = {"m1", "m2", "s1", "s2", "h1", "h2"}
    assert ranked(unimp) == every - {"h1", "m1"}
    assert ranked(unimp, exclude_seen=False) == every
    assert ranked(unimp, REQUESTS["search"]) == every
    assert ranked(unimp, REQUESTS["search"], exclude_seen=True) == every - {"h1", "m1"}


def test_a_shop_whose_shoppers_buy_again_is_recommended_what_they_have(tmp_path):
    processor = make_model_processor(exclude_seen=False)
    PersonalizationPipeline(model=make_model(processor), processor=processor).save_pretrained(tmp_path)
    loaded = pipeline("personalization", model=str(tmp_path))
    every = {"m1", "m2", "s1", "s2", "h1", "h2"}
    assert ranked(loaded) == every
    assert ranked(loaded, exclude_seen=True) == every - {"h1", "m1"}


def test_top_k(unimp):
    assert [len(unimp(RECOMMEND, top_k=k)["items"]) for k in (1, 4, 5)] == [1, 4, 4]
    assert len(unimp(RECOMMEND, top_k=np.int64(2), batch_size=np.int32(1))["items"]) == 2
    few = PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu", top_k=2)
    assert len(few(RECOMMEND)["items"]) == 2 and len(few(RECOMMEND, top_k=3)["items"]) == 3


def test_allowed_items(unimp):
    assert ranked(unimp, allowed=["s1", "m1"]) == {"s1"}
    assert ranked(unimp, allowed=(item_id for item_id in ("s1", "h2"))) == {"s1", "h2"}
    assert ranked(unimp, allowed=[]) == set()


def test_retired_items_are_never_ranked(own_unimp):
    before = {item["item_id"]: item["score"] for item in own_unimp(RECOMMEND)["items"]}
    own_unimp.processor.catalogue.retire(["s1"])
    after = {item["item_id"]: item["score"] for item in own_unimp(RECOMMEND)["items"]}
    assert after == pytest.approx({k: p / (1 - before["s1"]) for k, p in before.items() if k != "s1"}, rel=1e-4)
    assert ranked(own_unimp, allowed=["s1", "h2"]) == {"h2"}
    # They are still read.
    assert own_unimp({"task": "recommend", "history": ["s1"]})["items"]
    assert own_unimp(REQUESTS["select"])["items"][0]["item_id"] == "s1"


# -------------------------------------------------------------------------------- items the catalogue does not know


def test_items_may_be_described(unimp):
    hat = {"item_id": "not-ours", "title": "Yellow hat", "category": "hat", "image": picture("red")}
    nameless = {"title": "Some shoe"}
    answer = unimp({"task": "recommend", "history": [hat, "m1"]})
    assert "not-ours" not in {item["item_id"] for item in answer["items"]}
    assert not close(answer, unimp({"task": "recommend", "history": [nameless, "m1"]}))
    blue = unimp({"task": "recommend", "history": [hat | {"image": Image.new("RGB", (40, 40), "blue")}, "m1"]})
    assert not close(answer, blue)
    assert 1 <= unimp({"task": "rate", "history": ["m1"], "item": hat})["stars"] <= 5
    items = unimp({"task": "select", "history": ["m1"], "candidates": [hat, "h2", nameless]})["items"]
    assert [item.get("item_id") for item in items] == ["not-ours", "h2", None]
    assert items[0]["title"] == "Yellow hat" and "image" not in items[0]


# ------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("where", ["call", "construction", "config"])
def test_arguments_of_generate_reach_it(unimp, monkeypatch, where):
    seen = {}

    def generate(**kwargs):
        seen.update(kwargs)
        return kwargs["input_ids"]

    monkeypatch.setattr(unimp.model, "generate", generate)
    given = {"max_new_tokens": 7, "do_sample": True, "num_beams": 3}
    if where == "call":
        unimp(REQUESTS["explain"], **given)
    elif where == "construction":
        PersonalizationPipeline(model=unimp.model, processor=unimp.processor, device="cpu", **given)(
            REQUESTS["explain"]
        )
    else:
        unimp(REQUESTS["explain"], generation_config=GenerationConfig(**given))
    reached = seen if where != "config" else vars(seen["generation_config"])
    assert given.items() <= reached.items()
    assert reached["eos_token_id"] == unimp.processor.tokenizer.eos_token_id


@pytest.mark.parametrize("as_config", [False, True])
def test_an_explanation_stops_at_a_string(unimp, as_config):
    word = unimp.processor.tokenizer("hat")["input_ids"][0]
    written = unimp.processor.tokenizer.decode([word])
    always = {"logits_processor": [SequenceBiasLogitsProcessor({(word,): 1e6})]}
    given = {"max_new_tokens": 3, "stop_strings": [written]}
    given = {"generation_config": GenerationConfig(**given)} if as_config else given
    assert unimp(REQUESTS["explain"], max_new_tokens=3, **always)["text"] == written * 3
    assert unimp(REQUESTS["explain"], **given, **always)["text"] == written


@pytest.mark.parametrize("saved", [False, True])
def test_what_the_model_says_of_generation_holds_unless_the_call_says_otherwise(unimp, tmp_path, saved):
    asked, tokenizer = REQUESTS["explain"], unimp.processor.tokenizer
    unimp = PersonalizationPipeline(model=copy.deepcopy(unimp.model), processor=unimp.processor, device="cpu")

    def written(**given) -> list[int]:
        """What was last before each word was written."""
        last = []

        def note(input_ids, scores):
            last.append(input_ids[0, -1].item())
            return scores

        ours(asked, logits_processor=[note], **given)
        return last

    def length(**given):
        return len(written(**given))

    def set_up(**chosen):
        unimp.model.generation_config = GenerationConfig(**chosen)
        if not saved:
            return unimp
        unimp.save_pretrained(tmp_path)
        return pipeline("personalization", model=str(tmp_path), device="cpu")

    no_end = {"bad_words_ids": [[tokenizer.eos_token_id]]}
    ours = set_up(max_new_tokens=4, **no_end)
    assert length() == 4 and length(max_new_tokens=6) == 6
    assert length(generation_config=GenerationConfig(max_new_tokens=5)) == 5
    read = len(unimp.processor(requests=[asked])["input_ids"][0])
    assert length(max_length=read + 3) == 3
    ours = set_up(max_length=read + 2, **no_end)
    assert length() == 2 and length(max_new_tokens=6) == 6
    ours = set_up(max_new_tokens=4, eos_token_id=written()[1])
    assert length() == 1


def test_an_explanation_may_be_searched_for_or_sampled(unimp):
    assert isinstance(unimp(REQUESTS["explain"], num_beams=3, max_new_tokens=4)["text"], str)
    texts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        texts.append(unimp(REQUESTS["explain"], do_sample=True, max_new_tokens=8)["text"])
    assert texts[0] == texts[1] != texts[2]


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (None, "type NoneType: expected a dict"),
        (3, "type int: expected a dict"),
        ("m1", "type str: expected a dict"),
        (b"m1", "type bytes: expected a dict"),
        (["m1", "h1"], "request 0: a request of type str: expected a dict"),
        ([[RECOMMEND]], "request 0: a request of type list"),
        ({}, "task None: expected one of recommend, search"),
        ({"history": HISTORY}, "task None: expected one of recommend, search"),
        ({"task": "buy", "history": HISTORY}, "'buy': expected one of recommend, search, rate, explain, select"),
        ({"task": "recommend"}, "history is None: expected a list of items"),
        ({"task": "recommend", "history": "m1"}, "history 'm1': expected a list"),
        ({"task": "recommend", "history": [None]}, "history item 0 is a NoneType: expected an item id"),
        ({"task": "recommend", "history": [{}]}, "no 'item_id', no attributes"),
        ({"task": "recommend", "history": ["m1", "m7"]}, "history item 1: item 'm7' is not among the 6 items"),
        ({"task": "recommend", "history": [{"item_id": "m1", "rating": 9}]}, "from 1 to 5"),
        ({"task": "recommend", "history": [{"title": "x", "image": b"x"}]}, "cannot read the picture"),
        ({"task": "search", "history": HISTORY}, "query None: expected a text"),
        ({"task": "rate", "history": HISTORY}, "the item is a NoneType"),
        ({"task": "explain", "history": HISTORY, "item": "m7"}, "the item: item 'm7' is not among"),
        ({"task": "select", "history": HISTORY}, "candidates None: expected a list"),
        ({"task": "select", "history": HISTORY, "candidates": "m1"}, "candidates 'm1': expected a list"),
        ({"task": "select", "history": HISTORY, "candidates": []}, "expected a list"),
        ({"task": "select", "history": HISTORY, "candidates": ["m1", "m7"]}, "a candidate: item 'm7'"),
    ],
)
def test_silly_requests(unimp, requests, message):
    with pytest.raises(ValueError, match=message):
        unimp(requests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k=0: expected a whole number of at least 1"),
        ({"top_k": True}, "top_k=True: expected a whole number of at least 1"),
        ({"top_k": "9" * 9999}, "top_k='9+: expected a whole number of at least 1"),
        ({"top_k": "3"}, "top_k='3'"),
        ({"allowed": ["m1", "m7"]}, "item 'm7' is not among the 6 items"),
        ({"allowed": "m1"}, "allowed='m1': expected a list"),
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"exclude_sean": True}, "unknown argument 'exclude_sean': did you mean exclude_seen?"),
        ({"qqqqqq": 1}, "unknown argument 'qqqqqq': expected one of top_k"),
    ],
)
def test_silly_arguments(unimp, arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        unimp([RECOMMEND], **arguments)


def test_silly_arguments_of_generate(unimp):
    for name, value in (("num_return_sequences", 2), ("return_dict_in_generate", True)):
        with pytest.raises(ValueError, match=f"{name}={value}: an answer is one text"):
            unimp(REQUESTS["explain"], **{name: value})


def test_somebody_new_is_answered_and_told_so(unimp):
    """By what is usual in the shop, alone or beside others."""
    asked = [
        {"task": "recommend"},
        {"task": "search", "query": "mug"},
        {"task": "rate", "item": "m1"},
        {"task": "explain", "item": "m1"},
        {"task": "select", "candidates": ["m1", "h1"]},
    ]
    known, new = [each | {"history": ["m1"]} for each in asked], [each | {"history": []} for each in asked]
    answers = unimp([*known, *new])
    assert all("without_history" not in answer for answer in answers[:5])
    assert all(answer["without_history"] is True for answer in answers[5:])
    assert len(answers[5]["items"]) == 6 and close(answers[5], unimp(new[0]))


@pytest.mark.parametrize("lazily", [False, True])
def test_an_error_names_the_request_by_its_place_in_the_callers_list(unimp, lazily):
    requests = [
        REQUESTS["rate"],
        RECOMMEND,
        REQUESTS["rate"],
        RECOMMEND,
        {"task": "rate", "history": None, "item": "m1"},
    ]
    with pytest.raises(ValueError, match="request 4: the history"):
        list(unimp(iter(requests) if lazily else requests, batch_size=2))


# ------------------------------------------------------------------------------------------ other ways to ask and keep


def test_datasets_are_answered_lazily(unimp):
    rows = [{"ask": request} for request in (RECOMMEND, REQUESTS["rate"], RECOMMEND)]
    expected = unimp([row["ask"] for row in rows])
    found = unimp(KeyDataset(rows, "ask"), batch_size=2)
    assert iter(found) is iter(found) and close(list(found), expected)
    plain = [{"task": "recommend", "history": ["m1", "s2"], "query": None}, REQUESTS["search"] | {"history": ["m1"]}]
    assert close(list(unimp(Dataset.from_list(plain))), unimp(plain))


@pytest.mark.parametrize("lazily", [iter, lambda rows: KeyDataset([{"ask": row} for row in rows], "ask")])
def test_arguments_that_can_be_read_once_hold_for_all_requests(unimp, lazily):
    allowed = ("s1", "h2")
    ranked = list(unimp(lazily([RECOMMEND] * 3), batch_size=1, allowed=iter(allowed)))
    assert [{item["item_id"] for item in answer["items"]} for answer in ranked] == [set(allowed)] * 3
    asked = [REQUESTS["explain"], {"task": "explain", "history": ["m1"], "item": "h1"}]
    end = unimp.processor.tokenizer.eos_token_id
    ends = iter([SequenceBiasLogitsProcessor({(end,): 1e6})])
    silent = unimp(lazily(asked), batch_size=1, max_new_tokens=4, logits_processor=ends)
    assert [answer["text"] for answer in silent] == ["", ""]


def test_a_pipeline_is_pickled(unimp):
    model, processor = make_imagining_model()
    for own in (unimp, PersonalizationPipeline(model=model, processor=processor)):
        again = pickle.loads(pickle.dumps(own))
        assert close(again(RECOMMEND), own(RECOMMEND))
        assert again.add_items([{"item_id": "later", "title": "Later"}]) == [6]
        assert len(own.processor.catalogue) == 6


def test_it_is_registered_as_it_is_published(folder):
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), UniMPForConditionalGeneration)


# ------------------------------------------------------------------------------------------------ silent wrong answers


def test_attributes_with_names_of_an_answer_are_kept():
    attributes = {"title": "film", "score": 8.5, "selected": "jury", "item_score": 1}
    catalogue = Catalogue.from_items([{"item_id": f"i{n}"} | attributes for n in range(4)])
    processor = make_model_processor(catalogue=catalogue)
    unimp = PersonalizationPipeline(model=make_model(processor), processor=processor, device="cpu")
    best = unimp({"task": "recommend", "history": ["i0"]})["items"][0]
    assert best["item_item_score"] == 8.5 and best["item_score"] == 1 and 0 < best["score"] < 1
    assert best["selected"] == "jury", "which a ranking says nothing about"
    chosen = unimp({"task": "select", "history": ["i0"], "candidates": ["i1", {"title": "x", "score": 3}]})["items"]
    assert chosen[0]["item_selected"] == "jury" and isinstance(chosen[0]["selected"], bool)
    assert chosen[1]["item_score"] == 3


def test_what_is_no_longer_sold_is_not_selected(own_unimp):
    new = {"item_id": "not-ours", "title": "Hat"}
    request = {"task": "select", "history": ["m1"], "candidates": ["s1", "h2", new]}
    own_unimp.processor.catalogue.retire(["s1"])
    items = own_unimp(request)["items"]
    assert items[0]["score"] == 0 and not items[0]["selected"] and any(item["selected"] for item in items[1:])
    own_unimp.processor.catalogue.retire(["h2"])
    items = own_unimp(request | {"candidates": ["s1", "h2"]})["items"]
    assert [(item["score"], item["selected"]) for item in items] == [(0, False), (0, False)]
    own_unimp.processor.catalogue.unretire(["s1"])
    assert own_unimp(request | {"candidates": ["s1", "h2"]})["items"][0]["selected"]


@pytest.mark.parametrize("task", [*REQUESTS, "imagine"])
def test_a_damaged_model_says_so(task):
    model, processor = make_imagining_model()
    with torch.no_grad():
        model.model.language_model.layers[-1].mlp.up_proj.weight.fill_(float("nan"))
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    request = REQUESTS.get(task, {"task": "imagine", "history": HISTORY, "query": "hat"})
    with pytest.raises(ValueError, match="the model's scores are no numbers"):
        unimp(request)


def test_requests_as_data_frames_have_them(unimp):
    expected = unimp(RECOMMEND)
    entries = np.array([{"item_id": "h1", "title": None}, {"item_id": "m1", "rating": np.float64(4)}], dtype=object)
    assert close(unimp({"task": "recommend", "history": entries}), expected)
