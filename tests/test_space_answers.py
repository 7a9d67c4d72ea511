"""What the Space asks and shows, without a browser: known answers, other people's words, and what a model lacks."""

import json
import math
import re
import threading

import pytest
import torch
from shop import ITEMS, make_catalogue, make_imagining_model, make_model, make_processor, picture

from hub_cards.space import answers as space_answers
from hub_cards.space.answers import Answers
from hub_cards.space.panels import Panels
from hub_cards.space.product_cards import ProductCards
from hub_cards.space.shoppers import NUM_READY, ready_shoppers
from hub_cards.untrusted_text import one_line
from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, load_image_processor
from modeling_unimp.hybrid_scores import HybridScores, Score
from modeling_unimp.serving import reasons
from processing_unimp import TASK_NAMES, Catalogue, UniMPProcessor, make_demo_shop

HISTORY = [{"item_id": "m1", "rating": 5.0}, {"item_id": "s2", "rating": None}]
EVIL = '<script>alert("x")</script>'


def answers_of(model, processor, trained=None) -> Answers:
    model.config.trained_tasks = trained
    return Answers(PersonalizationPipeline(model=model, processor=processor))


@pytest.fixture(scope="module")
def panels() -> Panels:
    return Panels(answers_of(*make_imagining_model()))


@pytest.fixture(scope="module")
def blind() -> Panels:
    """Of a model that reads no pictures."""
    catalogue = make_catalogue()
    processor = UniMPProcessor.from_backbones("tiny", None, catalogue)
    model = UniMPForConditionalGeneration.from_backbones(
        text_model="tiny", vision_model=None, catalogue=catalogue, processor=processor
    )
    return Panels(answers_of(model.eval(), processor))


def items_in(shown: str, action: str = "open") -> list[str]:
    """Ids of the items that buttons name by their numbers."""
    return [
        ITEMS[int(number)]["item_id"] for number in re.findall(rf'data-action="{action}" data-item="(\d+)"', shown)
    ]


def test_the_page_shows_what_the_pipeline_answers(panels):
    answers = panels.answers
    ranked = answers.pipeline({"task": "recommend", "history": HISTORY}, top_k=12)["items"]
    assert (
        items_in(panels.recommended(HISTORY))
        == [item["item_id"] for item in ranked]
        == items_in(panels.recommended(HISTORY), "add")
    )
    found = answers.pipeline({"task": "search", "history": HISTORY, "query": "hat"}, top_k=12)["items"]
    assert items_in(panels.found(HISTORY, "hat")) == [item["item_id"] for item in found]
    assert "width:100.0%" in panels.found(HISTORY, "hat"), "bars are relative to the first"


def test_a_shopper_is_read_once_and_each_further_item_alone(panels, monkeypatch):
    monkeypatch.setattr(space_answers, "MAX_STATES", 3)
    answers = answers_of(panels.answers.pipeline.model, panels.answers.pipeline.processor)
    lengths: list[int] = []
    network = answers.pipeline.model.model.language_model
    hook = network.register_forward_hook(
        lambda module, args, kwargs, output: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        recommended = answers.recommend(HISTORY)
        whole, question = lengths
        assert answers.recommend(HISTORY) == recommended and lengths[2:] == [question]
        answers.recommend([*HISTORY, "h2"])
        assert lengths[3] < whole and lengths[4:] == [question]
        # After others it is forgotten, and read again.
        for item in ITEMS[:3]:
            answers.recommend([item["item_id"]])
        del lengths[:]
        assert answers.recommend(HISTORY) == recommended and lengths == [whole, question]
    finally:
        hook.remove()


def test_the_first_has_a_full_bar_and_the_others_their_share(panels):
    shares = [float(share) for share in re.findall(r"width:([\d.]+)%", panels.recommended(HISTORY))]
    assert shares[0] == 100 and shares == sorted(shares, reverse=True)


def test_the_sheet_grows_from_stars_to_reasons(panels, monkeypatch):
    monkeypatch.setattr(reasons, "LEAST_EFFECT", 0.0)  # pictures of one colour move hardly anything
    sheets = list(panels.sheet(HISTORY, "h1", {"task": "recommend"}))
    assert [sheet.count("<section>") for sheet in sheets] == [1, 2, 3, 3]
    assert ["thinking" in sheet for sheet in sheets] == [True, True, True, False]
    stars = panels.answers.rate(HISTORY, "h1")
    assert "Counted in the history: category &#34;hat&#34; 0 times, 0 with 4 or 5 stars." in sheets[-1]
    assert f"<b>{stars['stars']:.1f}</b>" in sheets[-1] and sheets[-1].count('class="level"') == 5
    why = sheets[-1].split("Why?")[1]
    assert "Red mug" in why and "Blue shoe" in why
    assert why.count("Where the picture mattered") == 1, "the blue shoe has no picture"


def test_reasons_are_those_of_the_request_that_was_answered(panels):
    asked = {"task": "search", "query": "hat"}
    *_, searched = panels.sheet(HISTORY, "h1", asked)
    *_, on_the_shelf = panels.sheet(HISTORY, "h1", {})
    assert "likel" in searched.split("Why?")[1] and " stars</b>" not in searched.split("Why?")[1]
    assert "expected stars" in on_the_shelf.split("Why?")[1]


def test_a_ranking_says_why_where_the_model_can_tell():
    """The red mug goes with the green hat; nothing else is known."""
    model, processor = make_imagining_model()
    items, values = torch.zeros(6, 1, dtype=torch.long), torch.zeros(6, 1)
    catalogue = processor.catalogue
    items[catalogue.number("m1")], values[catalogue.number("m1")] = catalogue.number("h1"), 1.0
    alone = HybridScores({"EASE": (items, values)}, {}, torch.zeros(6), [Score("EASE", math.inf, 1.0)], {})
    model.hybrid_scores = alone.with_weights({"recommend": [0.1, 9.0]}, None)
    panels = Panels(answers_of(model, processor))
    cards = panels.recommended(HISTORY).split("<article")
    assert "Red mug: taken by the same shoppers, or alike" in cards[1] and "Green hat" in cards[1]
    assert all("as the network reads the history" in card for card in cards[2:3])
    assert panels.answers.recommend(HISTORY, top_k=1)["items"][0]["because"][0]["item_id"] == "m1"
    assert "because" not in panels.answers.search(HISTORY, "hat")["items"][0], "no weights for search"


def test_candidates_keep_their_ticks_whatever_is_looked_for(panels):
    shown = panels.candidates("hat", ["m1"], 12)
    assert items_in(shown, "tick") == ["m1", "h1", "h2"]
    assert shown.count('aria-checked="true"') == 1 and "1 ticked" in shown
    chosen = panels.selected(HISTORY, ["h1", "s1"])
    assert set(items_in(chosen)) == {"h1", "s1"} and "suits" in chosen


def test_a_wish_becomes_a_picture_with_what_it_was_made_of(panels):
    shown = panels.imagined(HISTORY, "hat", seed=0)
    assert 'src="data:image/png;base64,' in shown and "Understood as" in shown
    assert "Looked up first" in shown and len(items_in(shown)) > 2
    assert shown == panels.imagined(HISTORY, "hat", seed=0)


def test_answers_of_endpoints_are_plain_json(panels):
    answers = panels.answers
    for answer in (
        answers.recommend(["m1"], top_k=2),
        answers.search(["m1"], "hat"),
        answers.rate(["m1"], "h1"),
        answers.explain(["m1"], "h1"),
        answers.select(["m1"], ["h1", {"title": "Tin mug", "category": "mug"}]),
        answers.imagine(["m1"], "hat"),
    ):
        json.dumps(answer)
        assert answer["task"] in TASK_NAMES


def test_an_empty_history_asks_for_a_shopper_everywhere(panels):
    for shown in (
        panels.recommended([]),
        panels.found([], "hat"),
        panels.selected([], ["m1"]),
        panels.imagined([], "hat", 0),
        *panels.sheet([], "h1", {}),
    ):
        assert "Pick a shopper" in shown
    assert "Nothing yet" in panels.history([])


def test_nothing_typed_and_nothing_found_are_told(panels):
    assert "Type what" in panels.found(HISTORY, "  ") and "Type a wish" in panels.imagined(HISTORY, "", 0)
    assert "Nothing is ticked" in panels.selected(HISTORY, [])
    assert "nothing with <q>&lt;b&gt;</q>" in panels.products("<b>", 12)


def test_the_history_shows_the_latest_first_and_pales_what_is_not_read(panels):
    shown = panels.history([{"item_id": item["item_id"], "rating": 3} for item in ITEMS])
    assert items_in(shown) == ["h2", "h1", "s2", "s1", "m2", "m1"]
    assert shown.count('class="unread"') == len(ITEMS) - panels.answers.history_length
    assert shown.count('aria-pressed="true"') == len(ITEMS), "three stars each"


@pytest.mark.parametrize("name", ["title", "category", "brand"])
def test_words_of_a_merchant_are_never_markup(name):
    item = {"item_id": f"1{EVIL}", "title": "Hat", "category": "hat", "brand": "b", "price": EVIL, "image": None}
    catalogue = Catalogue.from_items([item | {name: EVIL}, dict(item, item_id="2")])
    cards = ProductCards(catalogue)
    first = catalogue.item(catalogue.item_id(0))
    for shown in (cards.card(first), cards.event({"item_id": first["item_id"], "rating": 4})):
        assert "<script" not in shown and "&lt;script&gt;" in shown


@pytest.mark.parametrize(
    "words", ["a" * 100_000, "<b>" * 30_000, "\u202e\u200b" * 50_000, "a\u0301" * 50_000, "\x00" * 99]
)
def test_long_words_of_a_merchant_stay_short(words):
    row = {"item_id": words, "title": words, "category": words, "tags": [words] * 9, "price": words, "retired": False}
    cards = ProductCards(Catalogue.from_items([row, {"item_id": "2"}]))
    item = cards.catalogue.item(words)
    for shown in (cards.card(item), cards.event({"item_id": words, "rating": 4})):
        assert len(shown) < 4_000 and "<b>" not in shown and "\u202e" not in shown and "\x00" not in shown


@pytest.mark.parametrize(
    ("price", "shown"),
    [(1e300, "1e+300"), (-1e300, "-1e+300"), (float("inf"), ""), (float("nan"), ""), (1234.5, "1,234.50"), (7.0, "7")],
)
def test_a_price_is_short_whatever_it_is(price, shown):
    cards = ProductCards(Catalogue.from_items([{"item_id": "1", "price": price}]))
    assert f'<span class="price">{shown}</span>' in cards.card(cards.catalogue.item("1"))


def test_what_is_looked_for_is_short(panels):
    assert panels.answers.find("x" * 200, 9) == []
    with pytest.raises(ValueError, match="at most 200 characters"):
        panels.answers.find("x" * 201, 9)


def test_what_the_model_writes_is_never_markup(panels, monkeypatch):
    monkeypatch.setattr(panels.answers, "explain", lambda *request: {"text": EVIL, "grounds": []})
    *_, sheet = panels.sheet(HISTORY, "h1", {})
    assert "<script" not in sheet and "&lt;script&gt;" in sheet


def test_an_item_without_a_picture_shows_its_initial(panels):
    shoe = panels.answers.catalogue.item("s2")
    assert "<img" not in panels.cards.card(shoe) and ">B</span>" in panels.cards.card(shoe)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda answers: answers.recommend(["m9"]), "m9"),
        (lambda answers: answers.rate(["m1"], "m9"), "m9"),
        (lambda answers: answers.search(["m1"], " "), "expected a text"),
        (lambda answers: answers.select(["m1"], []), "expected a list of items"),
    ],
)
def test_requests_that_cannot_be_answered_are_told_in_words(panels, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(panels.answers)


def test_somebody_new_is_recommended_something(panels):
    assert len(panels.answers.recommend([])["items"]) > 1


def test_a_model_without_codec_does_not_offer_to_imagine():
    processor = make_processor(image_processor=load_image_processor("tiny"))
    answers = answers_of(make_model(processor), processor)
    assert answers.tasks == list(TASK_NAMES[:-1]) and "no image codec" in answers.missing["imagine"]
    with pytest.raises(ValueError, match="cannot imagine: it has no image codec.* Ask for recommend"):
        answers.imagine(["m1"], "hat")


def test_a_shop_without_pictures_does_not_offer_to_imagine(tmp_path):
    """As it is published by default."""
    model, processor = make_imagining_model()
    processor.catalogue.save(tmp_path, images=False)
    processor.catalogue = Catalogue.load(tmp_path)
    answers = answers_of(model, processor)
    assert answers.tasks == list(TASK_NAMES[:-1])
    with pytest.raises(ValueError, match="cannot imagine: no item of its catalogue has a picture.* Ask for recommend"):
        answers.imagine(["m1"], "hat")


def test_tasks_that_were_not_trained_are_left_out():
    answers = answers_of(*make_imagining_model(), trained=["recommend", "explain"])
    assert answers.tasks == ["recommend", "explain"]
    *_, sheet = Panels(answers).sheet(HISTORY, "h1", {})
    assert "How many stars" not in sheet and "chance to be taken next" in sheet
    answers = answers_of(*make_imagining_model(), trained=["explain"])
    *_, sheet = Panels(answers).sheet(HISTORY, "h1", {})
    assert "gives items no score" in sheet


def test_what_closed_forms_answer_is_offered(caplog):
    """A selection follows the ranking, so it was never trained and is as good."""
    model, processor = make_imagining_model()
    nobody = HybridScores({}, {}, torch.zeros(6), [Score("popularity")], {})
    model.hybrid_scores = nobody.with_weights({"recommend": [1.0, 1.0]}, None)
    answers = answers_of(model, processor, trained=["recommend", "rate"])
    assert answers.tasks == ["recommend", "rate", "select"] and "trained" not in caplog.text
    assert "untrained" not in answers.select(["m1"], ["h1", "s1"])
    assert "not trained to search" in answers.missing["search"]


def test_a_model_without_vision_has_reasons_without_heat(blind):
    assert not blind.answers.reads_pictures
    *_, sheet = blind.sheet(HISTORY, "h1", {})
    assert "reads no pictures" in sheet and "Where the picture mattered" not in sheet


def test_the_filter_finds_items_on_sale_by_all_words(panels):
    answers = panels.answers
    assert [item["item_id"] for item in answers.find("MUG red", 9)] == ["m1"]
    assert len(answers.find("", 4)) == 4
    catalogue = make_catalogue()
    catalogue.retire(["m1"])
    processor = make_processor(catalogue, load_image_processor("tiny"))
    assert [item["item_id"] for item in answers_of(make_model(processor), processor).find("mug", 9)] == ["m2"]


def test_what_the_shop_changes_is_found_and_shown_as_it_is_now():
    model, processor = make_imagining_model()
    processor.query_attribute = "category"
    answers = answers_of(model, processor)
    panels, catalogue = Panels(answers), answers.catalogue

    def found(words: str) -> list[str]:
        return [item["item_id"] for item in answers.find(words, 99)]

    def shown_picture() -> str:
        return re.findall(r'<img src="([^"]*)"', panels.cards.card(catalogue.item("m1")))[0]

    assert found("cap") == [] and found("red mug") == ["m1"] and "shop of 6 items" in panels.masthead()
    assert set(answers.quick_queries()) == {"mug", "shoe", "hat"}
    before = shown_picture()
    answers.pipeline.add_items([{"item_id": "c1", "title": "Teal cap", "category": "cap", "image": picture("blue")}])
    answers.pipeline.update_items([{"item_id": "m1", "title": "Gold cup", "image": picture("green")}])
    catalogue.retire(["h1", "h2"])
    assert found("cap") == ["c1"] and found("gold") == ["m1"] and found("red mug") == found("hat") == []
    assert "shop of 7 items" in panels.masthead() and "Teal cap" in panels.products("", 99)
    assert set(answers.quick_queries()) == {"mug", "shoe", "cap"}
    assert shown_picture() not in ("", before)
    assert panels.item_id("6") == "c1"
    assert "Teal cap" in panels.candidates("", ["c1"], 99)
    # A tick on what was retired meanwhile is one no more.
    assert "0 ticked" in panels.candidates("", ["h1"], 99) and "Nothing is ticked" in panels.selected(HISTORY, ["h1"])
    assert items_in(panels.selected(HISTORY, ["h1", "s1"])) == ["s1"]
    assert "Gold cup" in panels.history(HISTORY) and "Gold cup" in [*panels.sheet(HISTORY, "h1", {})][-1]


def test_the_shop_is_looked_through_while_it_grows():
    model, processor = make_imagining_model()
    answers = answers_of(model, processor)
    panels, is_done = Panels(answers), threading.Event()

    def grow() -> None:
        for number in range(10):
            answers.pipeline.add_items([{"item_id": f"cap-{number}", "title": f"Cap {number}", "category": "cap"}])
            answers.pipeline.update_items([{"item_id": "m1", "price": number}])
        is_done.set()

    shop = threading.Thread(target=grow)
    shop.start()
    seen = []
    while not is_done.is_set():
        seen.append(len(answers.find("cap", 99)))
        assert "Why?" in [*panels.sheet(HISTORY, "h1", {})][-1]
    shop.join()
    assert seen == sorted(seen) and len(answers.find("cap", 99)) == 10


def test_ready_shoppers_are_those_of_the_made_up_shop():
    items, interactions = make_demo_shop(num_items=48, num_shoppers=12)
    shoppers = ready_shoppers(Catalogue.from_items(items), 6)
    assert len(shoppers) == NUM_READY and all(1 <= len(history) <= 6 for history in shoppers)
    # The same as in a larger crowd, and without their last item.
    rows = [row["item_id"] for row in interactions if row["user_id"] == "shopper-0000"]
    assert [entry["item_id"] for entry in shoppers[0]] == rows[:-1][-6:]
    assert ready_shoppers(make_catalogue(), 6) == []
    stranger = {"item_id": "mug-001", "title": "Another shop's mug", "image": picture("red")}
    assert ready_shoppers(Catalogue.from_items([stranger]), 6) == []


def test_long_words_are_cut_and_control_characters_gone():
    assert one_line("a\x00b\n c" + "d" * 99, 12) == "a b cdddd..."
    assert one_line("cheap \u202egum\u200b", 20) == "cheap gum"  # which would be read from right to left
    assert one_line(["red", "blue"], 20) == "red, blue" and one_line(None, 5) == ""
