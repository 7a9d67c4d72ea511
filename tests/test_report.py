"""The report stands alone, says what is true, and cannot be written into by a merchant."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from shop import ITEMS, make_catalogue, make_histories

from hub_cards.report import PICTURE_SIDE, shoppers_of, write_report
from hub_cards.run_record import write_results
from modeling_unimp import DataArguments, ModelArguments, UniMPTrainingArguments
from modeling_unimp.training.evaluation import format_table
from processing_unimp import (
    TASKS,
    Catalogue,
    EvaluationCases,
    ExampleSource,
    Histories,
    Targets,
    TaskMixture,
    leave_last_out,
)
from processing_unimp.catalogue import NO_CODE

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
        assert all(request.keys().isdisjoint({"answer", "next", "others"}) for request in requests)
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


def noise(side, height=None, seed=0):
    """A picture of which no two pixels are alike, so that nothing lossy leaves it as it is."""
    values = np.random.default_rng(seed).integers(0, 256, (height or side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def embedded(text):
    """The pictures of a part of the page, in order."""
    return [Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', text)]


def imagined(picture, retrieved=(1, 2), nearest=(0, 4), similarity=(0.9, 0.1, 0.2, 0.3, 0.456, 0.5)):
    """What the model gives for imagine: rows of the shop, m1 m2 s1 s2 h1 h2."""
    drawn = {
        "picture": picture,
        "wish": "mug",
        "retrieved": list(retrieved),
        "similarity": np.array(similarity, dtype=np.float32),
    }
    return drawn, list(nearest)


HISTORY = [{"item_id": "m1", "rating": 5}, {"item_id": "s2", "rating": None}]
IMAGINE = {"task": "imagine", "history": HISTORY, "query": "mug", "answer": "m2", "others": ["m1", "s1"]}


def test_six_tasks_of_real_cases(tmp_path):
    catalogue = make_catalogue()
    codes = [[0, 1] if catalogue.has_picture(item_id) else [NO_CODE, NO_CODE] for item_id in catalogue.item_ids]
    catalogue.set_picture_codes(np.array(codes))
    histories = make_histories(catalogue)
    histories.ratings[:] = 5  # what was not liked is no picture to imagine
    targets = leave_last_out(histories, new_users=0).test
    cases = [
        EvaluationCases.of(
            name,
            targets,
            ExampleSource(catalogue, np.random.default_rng(0), query_attribute="category", num_candidates=2),
            exclude_seen=True,
        )
        for name in TASKS
    ]
    ranking = ([0, 3], {"score": [0.7, 0.3]})
    outputs = {
        "recommend": ranking,
        "search": ranking,
        "rate": np.full(5, 0.2),
        "explain": "because",
        "select": np.array([0.9, 0.1]),
        "imagine": imagined(noise(16)),
    }
    shoppers = shoppers_of(cases)
    assert all("others" in shopper["requests"]["imagine"] for shopper in shoppers)
    assert {shopper["user_id"] for shopper in shoppers} == {"ada", "bob", "cyd"}
    path = write_report(tmp_path / "new", answers_to(catalogue, outputs), catalogue, shoppers, {})
    assert path == tmp_path / "new" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert [a["data-task"] for a in page.all("section")[:7]] == ["history", *TASKS]
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
        {
            "task": "explain",
            "history": ["m1"],
            "item": "m1",
            "answer": HOSTILE,
            "grounds": [{"attribute": HOSTILE, "value": HOSTILE, "items": [HOSTILE], "liked": 1}],
        },
        {
            "task": "select",
            "history": ["m1"],
            "candidates": ["s1", {"title": HOSTILE, "image": HOSTILE.encode()}],
            "answer": [True, False],
        },
        {"task": "imagine", "history": ["m1"], "query": HOSTILE, "answer": HOSTILE, "others": ["m1", "s1"]},
    ]
    ranking = ([0, 1, 2], {"score": [0.5, 0.3, 0.2]})
    outputs = {"recommend": ranking, "search": ranking, "explain": HOSTILE, "select": [0.4, 0.6]}
    outputs["imagine"] = imagined(noise(16))
    text = write(tmp_path, catalogue, requests, outputs, user_id=HOSTILE)
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "a", "form"})
    assert text.count("<style>") == text.count("</style>") == text.count("<title>") == text.count("<body>") == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.keys().isdisjoint({"href", "srcset", "action"})
        assert re.match(
            r"data:image/(jpeg|png);base64,[A-Za-z0-9+/=]*$", attributes.get("src", "data:image/png;base64,")
        )
    assert "<script>alert(1)</script>" in page.text  # shown as what it is: words
    assert "url(" not in text and "http:" not in text and "https:" not in text


def test_control_characters_and_surrogates_do_not_break_the_file(tmp_path):
    request = {"task": "search", "history": ["m1"], "query": "red\x00\x1b[31m\ud800\u202e mug", "answer": "m1"}
    text = write(tmp_path, make_catalogue(), [request], {"search": ([0], {"score": [1.0]})})
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
    text = write(tmp_path, Catalogue.from_items(items), [request], {"recommend": ([0], {"score": [1.0]})})
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
    text = write(tmp_path, make_catalogue(), requests, {"recommend": ([0], {"score": [1.0]}), "rate": np.full(5, 0.2)})
    first, second, following = tiles(panel(text, "history"))
    assert first.count("&#9733;") == 5 and "not rated" in second
    assert "Green hat" in following and "took next" in following and following.count("&#9733;") == 2
    assert "took next" not in first + second


def test_the_item_really_taken_is_marked_in_a_ranking(tmp_path):
    request = {"task": "recommend", "history": HISTORY, "answer": "s1"}
    catalogue = make_catalogue()
    ranking = panel(
        write(tmp_path, catalogue, [request], {"recommend": ([4, 2, 5], {"score": [0.5, 0.2, 0.00001]})}), "recommend"
    )
    shown = tiles(ranking)
    assert ["took it" in tile for tile in shown] == [False, True, False]
    assert "really taken is number 2" in ranking
    assert [re.search(r"<b>(.*?)</b>", tile)[1] for tile in shown] == ["50%", "20%", "&lt;0.01%"]
    assert [re.search(r"width:(.*?)%", tile)[1] for tile in shown] == ["100.0", "40.0", "0.0"]
    missed = panel(write(tmp_path, catalogue, [request], {"recommend": ([4, 5], {"score": [0.5, 0.2]})}), "recommend")
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


def groups(text):
    """The parts of a panel of imagine, by class."""
    return dict(
        re.findall(
            r'<div class="(found|drawn|nearest|truth)"><h5>(.*?)(?=<div class="(?:drawn|nearest|truth)">|$)',
            text,
            re.S,
        )
    )


def test_an_imagined_picture_stands_between_what_was_looked_up_and_what_is_sold(tmp_path):
    picture = noise(64)
    text = write(tmp_path, make_catalogue(), [IMAGINE], {"imagine": imagined(picture, nearest=(0, 1, 4))})
    shown = panel(text, "imagine")
    assert 'Imagine <q class="query" dir="auto">mug</q>' in shown
    parts = groups(shown)
    assert list(parts) == ["found", "drawn", "nearest", "truth"]
    assert re.findall(r'dir="auto">([^<]*)</span>', parts["found"]) == ["Blue mug", "Red shoe"]
    (drawn,) = re.findall(r"<img.*?>", parts["drawn"])
    assert np.array_equal(np.asarray(embedded(drawn)[0]), np.asarray(picture))  # not a pixel is lost
    assert 'width="256" height="256"' in drawn and 'class="pixels"' in drawn
    assert 'alt="A picture of mug, made by the model"' in drawn and "made by the model</span>" in parts["drawn"]
    assert re.findall(r'dir="auto">([^<]*)</span>', parts["nearest"]) == ["Red mug", "Blue mug", "Green hat"]
    assert re.findall(r"<b>(.*?)</b>", parts["nearest"]) == ["0.90", "0.10", "0.46"]
    assert re.findall(r"width:(.*?)%", parts["nearest"]) == ["90.0", "10.0", "45.6"]
    assert ["took it" in tile for tile in tiles(parts["nearest"])] == [False, True, False]
    assert "the item really taken is number 2 in similarity" in shown
    (true,) = tiles(parts["truth"])
    assert "Blue mug" in true and 'class="tile true"' in true
    assert text.count(re.search(r'src="([^"]+)"', drawn)[1]) == 1
    following = tiles(panel(text, "history"))[-1]
    assert "Blue mug" in following and "took next" in following


def test_an_imagined_picture_like_nothing_that_was_taken(tmp_path):
    output = imagined(noise(16), retrieved=(), nearest=(5, 3), similarity=[0, 0, 0, -0.25, 0, 0.5])
    shown = panel(write(tmp_path, make_catalogue(), [IMAGINE], {"imagine": output}), "imagine")
    assert list(groups(shown)) == ["drawn", "nearest", "truth"]
    assert re.findall(r"<b>(.*?)</b>", shown) == ["0.50", "-0.25"]
    assert re.findall(r"width:(.*?)%", shown) == ["50.0", "0.0"]
    assert "the item really taken is not among the 2 most alike" in shown and "took it" not in shown
    alone = panel(write(tmp_path, make_catalogue(), [IMAGINE], {"imagine": imagined(noise(16), (), ())}), "imagine")
    assert list(groups(alone)) == ["drawn", "truth"] and "really taken is" not in alone


@pytest.mark.parametrize(
    ("size", "form", "kept", "on_the_page", "enlarged"),
    [
        ((8, 8), "PNG", (8, 8), (256, 256), True),
        ((96, 96), "PNG", (96, 96), (192, 192), True),  # twice: two and two thirds would blur its pixels
        ((128, 64), "PNG", (128, 64), (256, 128), True),
        ((256, 256), "JPEG", (256, 256), (256, 256), False),
        ((400, 200), "JPEG", (400, 200), (256, 128), False),
        ((1024, 1024), "JPEG", (512, 512), (256, 256), False),
    ],
)
def test_an_imagined_picture_keeps_its_size_and_is_enlarged_a_whole_number_of_times(
    tmp_path, size, form, kept, on_the_page, enlarged
):
    output = imagined(noise(*size))
    drawn = groups(panel(write(tmp_path, make_catalogue(), [IMAGINE], {"imagine": output}), "imagine"))["drawn"]
    (picture,) = embedded(drawn)
    assert (picture.format, picture.size) == (form, kept)
    assert f'width="{on_the_page[0]}" height="{on_the_page[1]}"' in drawn and ('class="pixels"' in drawn) == enlarged


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
    assert "ahead of every trivial baseline" in recommend and "0.150 &#8211; 0.250" in recommend
    assert re.findall(r"<b>(.*?)</b>", recommend) == ["0.200", "0.400"]  # the headline first, the better one bold
    assert re.findall(r'<th scope="col">(.*?)</th>', recommend) == ["ndcg@10", "hr@10"]
    assert "level with: constant" in rate and re.findall(r"<b>(.*?)</b>", rate) == ["0.900", "0.700"]
    assert "behind: everything" in select and "1,200 cases" in select and "3 left out" in select
    assert "ahead of every trivial baseline" in new_users
    page = Page(text)
    assert "answers requests to recommend, rate and select, over a catalogue of 6 items" in page.text
    assert "On 1 of 3 tasks it is ahead" in page.text and "No shopper to show" in page.text


def test_few_cases_are_too_few_to_tell(tmp_path):
    good, bad = {"ndcg@10": 0.43}, {"ndcg@10": 0.39}
    results = {
        "test": {
            "recommend": found("ndcg@10", good, (0.43, 0.43), popular=bad) | {"cases": 29},
            "search": found("ndcg@10", bad, None, popular=good) | {"cases": 1},
        }
    }
    page = Page(write_report(tmp_path, None, make_catalogue(), [], results).read_text(encoding="utf-8"))
    assert page.text.count("too few cases to tell") == 2 and "On 0 of 2 tasks" in page.text
    assert "behind: popular" not in page.text


FIT = {
    "recommend": {
        "metric": "ndcg@10",
        "cases": 2000,
        "network": 0.05,
        "closed_form": 0.17,
        "together": 0.16,
        "weight": 0.0,
        "asked": "recommend",
    },
    "rate": None,
}


def test_what_the_fit_found_is_told(tmp_path):
    page = Page(write_report(tmp_path, None, make_catalogue(), [], {}, fit=FIT).read_text(encoding="utf-8"))
    assert (
        "Recommend: NDCG@10 on 2,000 validation cases: network 0.0500, closed form 0.1700, together 0.1600; the "
        "network does not earn its weight here, and gets none." in page.text
    )
    assert "Rate: without validation cases and ratings no closed-form scores could be fitted" in page.text
    without = Page(write_report(tmp_path, None, make_catalogue(), [], {}).read_text(encoding="utf-8"))
    assert "closed form" not in without.text


def test_of_a_refit_model_the_report_begins_with_whose_answers_it_shows(tmp_path):
    said = "Numbers and answers are of the model before it was trained again on all interactions"
    for refit in (True, False):
        path = write_report(tmp_path, None, make_catalogue(), [], IMAGINED, refit=refit)
        above, results, _ = Page(path.read_text(encoding="utf-8")).text.partition("UniMP beside trivial baselines")
        assert results and (said in above) == refit


NAN = float("nan")
METRICS = ("gain", "similarity", "similarity_to_other", "frechet", "diversity", "nll")
IMAGINED = {
    "test": {
        "imagine": found(
            "gain",
            dict(zip(METRICS, (0.02, 0.81, 0.79, 3.5, 0.2, 4.0), strict=True)),
            (0.01, 0.03),
            random=dict(zip(METRICS, (-0.0001, 0.8, 0.8, 0.5, 0.3, NAN), strict=True)),
            retrieved=dict(zip(METRICS, (0.005, 0.7, 0.7, 9.0, 0.25, NAN), strict=True)),
        )
    }
}


def test_each_metric_has_its_own_direction_and_what_is_unknown_is_a_dash(tmp_path):
    text = write_report(tmp_path, None, make_catalogue(), [], IMAGINED).read_text(encoding="utf-8")
    (table,) = re.findall(r'<section class="card result">.*?</section>', text, re.S)
    heads = ["gain", "similarity", "similarity to other", "frechet&nbsp;&#8595;", "diversity", "nll&nbsp;&#8595;"]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == heads
    model, random, retrieved = (
        re.findall("<td>(.*?)</td>", row) for row in re.findall(r'<tr class="\w*">(.*?)</tr>', table, re.S)
    )
    # The nearest set of pictures is best; being like another item is neither good nor bad; nobody to compare nll with.
    assert model == [
        "<b>0.020</b><small>0.010 &#8211; 0.030</small>",
        "<b>0.810</b>",
        "0.790",
        "3.500",
        "0.200",
        "4.000",
    ]
    assert random == ["0.000", "0.800", "0.800", "<b>0.500</b>", "<b>0.300</b>", "&#8211;"]
    assert retrieved == ["0.005", "0.700", "0.700", "9.000", "0.250", "&#8211;"]
    assert "ahead of every trivial baseline" in table and "Frechet:" in table
    nothing = {
        "test": {"imagine": found("gain", dict.fromkeys(METRICS, NAN), None, random=dict.fromkeys(METRICS, 0.5))}
    }
    page = Page(write_report(tmp_path, None, make_catalogue(), [], nothing).read_text(encoding="utf-8"))
    assert "nothing to compare with" in page.text and "nan" not in page.text


def test_what_is_unknown_is_a_dash_in_the_printed_table_and_null_in_the_json(tmp_path):
    lines = [line.split() for line in format_table(IMAGINED).splitlines()]
    assert ["random", "-0.0001", "0.8000", "0.8000", "0.5000", "0.3000", "-"] in lines
    assert ["retrieved", "0.0050", "0.7000", "0.7000", "9.0000", "0.2500", "-"] in lines
    widths = {len(line) for line in format_table(IMAGINED).splitlines()[2:] if "interval" not in line}
    assert len(widths) == 1  # the dash stands in its column
    catalogue = make_catalogue()
    split = leave_last_out(make_histories(catalogue), new_users=0)
    mixture = TaskMixture(split.train, catalogue, ["recommend"])
    args = UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    write_results(tmp_path, IMAGINED, split, mixture, DataArguments(), ModelArguments(), args, 1.0, fit=FIT)
    # Python alone reads its own NaN; everybody else calls the file broken.
    record = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert record["fit"] == FIT
    imagine = record["results"]["test"]["imagine"]
    assert imagine["model"]["nll"] == 4.0 and imagine["baselines"]["random"]["nll"] is None
    assert imagine["interval"] == [0.01, 0.03]


CODEC = {"psnr": 24.13, "ssim": 0.84213, "l1": 0.04, "codes_used": 498, "num_codes": 1024, "perplexity": 310.4}
TRAINED = CODEC | {"pictures": 24, "trained_on": 1204}


def codec_section(text):
    return re.search(r"<h2>Picture codec</h2>.*", text, re.S)[0]


def test_a_codec_is_told_in_numbers_and_shown_in_pairs(tmp_path):
    pairs = [(noise(300, 150), noise(16, seed=1)), (noise(16, seed=2), noise(16, seed=3))]
    codec = {"metrics": TRAINED, "pictures": pairs}
    text = write_report(tmp_path, None, make_catalogue(), [], IMAGINED, codec=codec).read_text(encoding="utf-8")
    page, section = Page(text), codec_section(text)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
    assert facts == {
        "PSNR": "24.1 dB",
        "SSIM": "0.842",
        "Codes used": "498 of 1,024",
        "Perplexity": "310",
        "Pictures held out": "24",
    }
    assert "Not among the 1,204 that the codec has learnt from" in page.text and "16 \u00d7 16 pixels" in page.text
    columns = re.findall(r'<figure class="pair">(.*?)</figure>', section, re.S)
    for column, (original, rebuilt) in zip(columns, pairs, strict=True):
        above, below = embedded(column)
        assert re.findall('alt="(.*?)"', column) == ["from the shop", "rebuilt from codes"]
        assert np.array_equal(np.asarray(below), np.asarray(rebuilt))
        assert above.size == below.size == (16, 16) and column.count('class="pixels"') == 2
        if original.size == rebuilt.size:
            assert np.array_equal(np.asarray(above), np.asarray(original))
    assert "Results" in page.text and "No shopper to show" in page.text


def test_a_run_of_the_codec_alone(tmp_path):
    codec = {"metrics": CODEC | {"psnr": NAN, "pictures": 6}, "pictures": []}
    text = write_report(tmp_path, None, make_catalogue(), [], {}, codec=codec).read_text(encoding="utf-8")
    page = Page(text)
    assert [title for title in re.findall("<h2>(.*?)</h2>", text)] == ["Picture codec"]
    assert "catalogue of 6 items" in page.text and "No shopper to show" not in page.text
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["PSNR"] == "&#8211;" and facts["Pictures measured"] == "6"  # it was trained elsewhere
    assert "<img" not in text and "learnt from" not in text


def test_without_a_codec_there_is_no_word_of_one(tmp_path):
    text = write_report(tmp_path, None, make_catalogue(), [], {}).read_text(encoding="utf-8")
    assert "codec" not in text.split("<body>")[1]


def test_too_few_answers_are_an_error(tmp_path):
    shopper = {"user_id": "ada", "requests": {"recommend": {"task": "recommend", "history": ["m1"], "answer": "m2"}}}
    with pytest.raises(ValueError, match="1 requests got 0 answers"):
        write_report(tmp_path, lambda requests: [], make_catalogue(), [shopper], {})
