"""The report stands alone, says what is true, and cannot be written into by a merchant."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from shop import ITEMS, make_catalogue, make_histories

from hub_cards.report import PICTURE_SIDE, shoppers_of, write_report
from processing_unimp import TASKS, Catalogue, EvaluationCases, ExampleSource, Histories, Targets, leave_last_out

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp; {body} mug"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def answers_to(catalogue, outputs):
    """A stand-in for the pipeline: the same outputs for everybody, in the tasks' own form."""

    def answer(requests):
        assert all("answer" not in request for request in requests)
        return [TASKS[request["task"]].answer(request, outputs[request["task"]], catalogue) for request in requests]

    return answer


def write(folder, catalogue, requests, outputs, results=None, user_id="ada"):
    shopper = {"user_id": user_id, "requests": {request["task"]: request for request in requests}}
    path = write_report(folder, answers_to(catalogue, outputs), catalogue, [shopper], results or {})
    return path.read_text(encoding="utf-8")


def panel(text, task):
    return re.search(rf'<section class="panel \w+" data-task="{task}">.*?</section>', text, re.S)[0]


def tiles(text):
    return re.findall(r"<figure.*?</figure>", text, re.S)


HISTORY = [{"item_id": "m1", "rating": 5}, {"item_id": "s2", "rating": None}]


def test_five_tasks_of_real_cases(tmp_path):
    catalogue = make_catalogue()
    targets = leave_last_out(make_histories(catalogue), new_users=0).test
    cases = [
        EvaluationCases.of(
            name,
            targets,
            ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category", num_candidates=2),
            exclude_seen=True,
        )
        for name in TASKS
    ]
    ranking = ([0, 3], [0.7, 0.3])
    outputs = {
        "recommend": ranking,
        "search": ranking,
        "rate": np.full(5, 0.2),
        "explain": "because",
        "select": np.array([0.9, 0.1]),
    }
    shoppers = shoppers_of(cases)
    assert {shopper["user_id"] for shopper in shoppers} == {"ada", "bob", "cyd"}
    path = write_report(tmp_path / "new", answers_to(catalogue, outputs), catalogue, shoppers, {})
    assert path == tmp_path / "new" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert [a["data-task"] for a in page.all("section")[:6]] == ["history", *TASKS]
    assert "ada does not like it" in page.text and "because" in page.text


def test_shoppers_are_matched_by_moment_and_the_fullest_come_first():
    catalogue = make_catalogue()
    events = [
        ("eve", 0, "m1", None, None),
        ("eve", 1, "m2", None, None),
        ("fay", 0, "s1", 4, None),
        ("fay", 1, "h1", 5, "warm"),
    ]
    names = ("user_id", "timestamp", "item_id", "rating", "explanation")
    histories = Histories.from_interactions([dict(zip(names, event, strict=True)) for event in events], catalogue)
    targets = Targets(histories, np.array([0, 1]), np.array([1, 1]))
    cases = [
        EvaluationCases.of(name, targets, ExampleSource(catalogue, np.random.default_rng(0)), exclude_seen=True)
        for name in ("recommend", "rate", "explain")
    ]
    fay, eve = shoppers_of(cases)
    assert (fay["user_id"], list(fay["requests"])) == ("fay", ["recommend", "rate", "explain"])
    assert (eve["user_id"], list(eve["requests"])) == ("eve", ["recommend"])
    assert fay["requests"]["rate"]["answer"] == 5 and fay["requests"]["recommend"]["answer"] == "h1"
    assert shoppers_of(cases, num_shoppers=1) == [fay]


def test_a_hostile_merchant_writes_words_only(tmp_path):
    items = [dict(item, title=HOSTILE, category=HOSTILE) for item in ITEMS]
    items[1]["item_id"] = HOSTILE
    catalogue = Catalogue.from_items(items)
    requests = [
        {"task": "recommend", "history": ["m1", HOSTILE], "answer": HOSTILE},
        {"task": "search", "history": ["m1"], "query": HOSTILE, "answer": "m1"},
        {"task": "explain", "history": ["m1"], "item": "m1", "answer": HOSTILE},
        {
            "task": "select",
            "history": ["m1"],
            "candidates": ["s1", {"title": HOSTILE, "image": HOSTILE.encode()}],
            "answer": [True, False],
        },
    ]
    ranking = ([0, 1, 2], [0.5, 0.3, 0.2])
    outputs = {"recommend": ranking, "search": ranking, "explain": HOSTILE, "select": [0.4, 0.6]}
    text = write(tmp_path, catalogue, requests, outputs, user_id=HOSTILE)
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "a", "form"})
    assert text.count("<style>") == text.count("</style>") == text.count("<title>") == text.count("<body>") == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.keys().isdisjoint({"href", "srcset", "action"})
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert "<script>alert(1)</script>" in page.text  # shown as what it is: words
    assert "url(" not in text and "http:" not in text and "https:" not in text


def test_control_characters_and_surrogates_do_not_break_the_file(tmp_path):
    request = {"task": "search", "history": ["m1"], "query": "red\x00\x1b[31m\ud800\u202e mug", "answer": "m1"}
    text = write(tmp_path, make_catalogue(), [request], {"search": ([0], [1.0])})
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", text)


def test_long_words_are_cut_and_scripts_without_spaces_are_not_lost(tmp_path):
    catalogue = Catalogue.from_items([dict(ITEMS[0], title="x" * 50_000), *ITEMS[1:]])
    japanese = "\u8d64\u3044\u30de\u30b0" * 30
    request = {"task": "explain", "history": ["m2"], "item": "m1", "answer": "fine"}
    explained = panel(write(tmp_path, catalogue, [request], {"explain": japanese}), "explain")
    assert "x" * 77 + "...</span>" in explained and len(explained) < 5000
    assert japanese in explained


def test_pictures_are_inside_small_and_replaced_where_missing(tmp_path):
    large = BytesIO()
    Image.new("RGBA", (1000, 400), (10, 20, 200, 255)).save(large, "PNG")
    items = [dict(item) for item in ITEMS]
    items[0]["image"] = large.getvalue()
    items[4]["image"] = b"not a picture"
    request = {"task": "recommend", "history": ["m1", "m2", "s2", "h1"], "answer": "h2"}
    text = write(tmp_path, Catalogue.from_items(items), [request], {"recommend": ([0], [1.0])})
    m1, m2, s2, h1, h2 = tiles(panel(text, "history"))
    sizes = []
    for tile in (m1, m2, h2):
        data = base64.b64decode(re.search(r'src="data:image/jpeg;base64,([^"]+)"', tile)[1])
        sizes.append(Image.open(BytesIO(data)).size)
    assert sizes == [(PICTURE_SIDE, round(PICTURE_SIDE * 0.4)), (32, 32), (32, 32)]
    for tile in (s2, h1):
        assert "<img" not in tile and 'class="blank"' in tile
    assert "Blue shoe" in s2


def test_history_shows_stars_and_what_came_next(tmp_path):
    requests = [
        {"task": "recommend", "history": HISTORY, "answer": "h1"},
        {"task": "rate", "history": HISTORY, "item": "h1", "answer": 2},
    ]
    text = write(tmp_path, make_catalogue(), requests, {"recommend": ([0], [1.0]), "rate": np.full(5, 0.2)})
    first, second, following = tiles(panel(text, "history"))
    assert first.count("&#9733;") == 5 and "not rated" in second
    assert "Green hat" in following and "took next" in following and following.count("&#9733;") == 2
    assert "took next" not in first + second


def test_the_item_really_taken_is_marked_in_a_ranking(tmp_path):
    request = {"task": "recommend", "history": HISTORY, "answer": "s1"}
    catalogue = make_catalogue()
    ranking = panel(
        write(tmp_path, catalogue, [request], {"recommend": ([4, 2, 5], [0.5, 0.2, 0.00001])}), "recommend"
    )
    shown = tiles(ranking)
    assert ["took it" in tile for tile in shown] == [False, True, False]
    assert "really taken is number 2" in ranking
    assert [re.search(r"<b>(.*?)</b>", tile)[1] for tile in shown] == ["50%", "20%", "&lt;0.01%"]
    assert [re.search(r"width:(.*?)%", tile)[1] for tile in shown] == ["100.0", "40.0", "0.0"]
    missed = panel(write(tmp_path, catalogue, [request], {"recommend": ([4, 5], [0.5, 0.2])}), "recommend")
    assert "took it" not in missed and "not in the first 2" in missed


def test_stars_beside_the_true_stars(tmp_path):
    request = {"task": "rate", "history": HISTORY, "item": "h1", "answer": 4}
    rated = panel(write(tmp_path, make_catalogue(), [request], {"rate": [0.0, 0.1, 0.1, 0.3, 0.5]}), "rate")
    levels = re.findall(r'<div class="level (\w*)"><span>(\d).*?width:(.*?)%.*?<b>(.*?)</b><em>(.*?)</em>', rated)
    assert levels == [
        ("", "5", "100.0", "50%", ""),
        ("true", "4", "60.0", "30%", "really given"),
        ("", "3", "20.0", "10%", ""),
        ("", "2", "20.0", "10%", ""),
        ("", "1", "0.0", "&lt;0.01%", ""),
    ]
    assert "expected 4.2, really 4" in rated


def test_selection_says_what_was_right_and_wrong(tmp_path):
    request = {
        "task": "select",
        "history": HISTORY,
        "candidates": ["m2", "s1", "h1", "h2"],
        "answer": [True, False, True, False],
    }
    selected = panel(write(tmp_path, make_catalogue(), [request], {"select": [0.9, 0.8, 0.2, 0.1]}), "select")
    assert re.findall(r'class="verdict">&#\d+; (.*?)<', selected) == [
        "chosen, right",
        "chosen, wrong",
        "missed",
        "left out",
    ]
    assert re.findall(r'<figure class="tile (\w+)"', selected) == ["good", "bad", "bad", "quiet"]
    assert "1 of 2 found, 1 chosen wrongly" in selected


def found(headline, model, interval, **baselines):
    return {
        "cases": 1200,
        "skipped": 3,
        "headline": headline,
        "interval": interval,
        "model": model,
        "baselines": baselines,
    }


def test_results_are_compared_honestly(tmp_path):
    results = {
        "test": {
            "recommend": found(
                "ndcg@10", {"hr@10": 0.3, "ndcg@10": 0.2}, (0.15, 0.25), popular={"hr@10": 0.4, "ndcg@10": 0.1}
            ),
            "rate": found("rmse", {"mae": 0.7, "rmse": 0.9}, (0.8, 1.0), constant={"mae": 0.8, "rmse": 0.95}),
            "select": found("f1", {"f1": 0.1}, None, everything={"f1": 0.2}),
        },
        "new users": {"rate": found("rmse", {"mae": 0.7, "rmse": 0.9}, None, constant={"mae": 0.8, "rmse": 1.0})},
    }
    text = write_report(tmp_path, lambda requests: [], make_catalogue(), [], results).read_text(encoding="utf-8")
    recommend, rate, select, new_users = re.findall(r'<section class="card result">.*?</section>', text, re.S)
    assert "ahead of every trivial answer" in recommend and "0.150 &#8211; 0.250" in recommend
    assert re.findall(r"<b>(.*?)</b>", recommend) == ["0.200", "0.400"]  # the headline first, the better one bold
    assert re.findall(r'<th scope="col">(.*?)</th>', recommend) == ["ndcg@10", "hr@10"]
    assert "level with: constant" in rate and re.findall(r"<b>(.*?)</b>", rate) == ["0.900", "0.700"]
    assert "behind: everything" in select and "1,200 cases" in select and "3 left out" in select
    assert "ahead of every trivial answer" in new_users
    page = Page(text)
    assert "On 1 of 3 tasks it is ahead" in page.text and "No shopper to show" in page.text


def test_too_few_answers_are_an_error(tmp_path):
    shopper = {"user_id": "ada", "requests": {"recommend": {"task": "recommend", "history": ["m1"], "answer": "m2"}}}
    with pytest.raises(ValueError, match="1 requests got 0 answers"):
        write_report(tmp_path, lambda requests: [], make_catalogue(), [shopper], {})
