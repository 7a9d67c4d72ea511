"""A card says what the run found, is what the Hub reads, and cannot be written into by a seller or a recipe."""

import ast
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from markdown_it import MarkdownIt
from shop import make_catalogue, make_histories, make_model, make_model_processor

from hub_cards.cards import write_model_card
from hub_cards.run_record import write_results
from modeling_unimp import DataArguments, ModelArguments, PersonalizationPipeline, UniMPTrainingArguments
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Catalogue, TaskMixture, leave_last_out

HOSTILE = (
    "# a | b\n---\nlicense: mit\n\n```\n<b>*x*</b> [y](z) \\ _q_ {{ 1 }} {% if %} 'q' \"q\" "
    "\u202e www.bad.example @all \ud800"
)
HEADINGS = [
    "How to use",
    "Results",
    "Data and split",
    "Recipe",
    "Intended use",
    "Limits",
    "How a shopper's data is treated",
    "What is in this repository",
    "Licence",
    "Citation",
]


def found(headline: str, model: dict, baselines: dict, interval: tuple[float, float] | None = None) -> dict[str, Any]:
    return {
        "cases": 1200,
        "skipped": 3,
        "headline": headline,
        "interval": interval,
        "model": model,
        "baselines": baselines,
    }


RESULTS = {
    "test": {
        "recommend": found("ndcg@10", {"hr@10": 0.5, "ndcg@10": 0.25}, {"popularity": {"ndcg@10": 0.1}}, (0.2, 0.3)),
        "search": found(
            "ndcg@10", {"ndcg@10": 0.25}, {"in query": {"ndcg@10": 0.28}, "random": {"ndcg@10": 0}}, (0.2, 0.3)
        ),
        "rate": found(
            "rmse", {"mae": 0.8, "rmse": 1.5}, {"constant": {"rmse": 1.25}, "mean": {"rmse": 2}}, (1.4, 1.6)
        ),
        "explain": found("rougeL", {"rougeL": 0.5}, {"commonest text": {"rougeL": 0.25}}),
    },
    "new users": {"recommend": found("ndcg@10", {"ndcg@10": 0.125}, {"popularity": {"ndcg@10": 0.01}}, (0.1, 0.15))},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder as train.py saves it."""
    folder = tmp_path_factory.mktemp("trained") / "unimp"
    processor = make_model_processor(attributes=["title", "price"], query_attribute="category")
    PersonalizationPipeline(model=make_model(processor), processor=processor).save_pretrained(folder)
    write_record(folder)
    return folder


def write_record(
    folder: Path, results: Any = RESULTS, codec: dict | None = None, fit: Any = None, **changes: Any
) -> None:
    """The results.json of a run with these results, whose options were changed."""
    catalogue = make_catalogue()
    split = leave_last_out(make_histories(catalogue), new_users=0)
    split.name = changes.get("split", split.name)
    split.removed = changes.pop("removed", {"users outside the 5-core": 12345})
    split.leaks = changes.pop("leaks", "7.0 % of the training interactions are newer.")
    data_args, model_args = DataArguments(tasks=["recommend", "search", "rate", "explain"]), ModelArguments()
    args = UniMPTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", learning_rate=0.5)
    for name, value in changes.items():
        owner: Any = data_args if hasattr(data_args, name) else model_args if hasattr(model_args, name) else args
        setattr(owner, name, value)
    mixture = TaskMixture(split.train, catalogue, ["recommend"])
    write_results(folder, results, split, mixture, data_args, model_args, args, 12.34, codec, fit)


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "unimp"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def card_of(folder: Path, repo_id: str | None = "shop/unimp-mugs", **options: Any) -> ModelCard:
    return ModelCard.load(write_model_card(folder, folder, repo_id, **options))


def tokens(card: ModelCard) -> list:
    return MarkdownIt("commonmark").enable("table").parse(card.text)


def headings(card: ModelCard, level: str) -> list[str]:
    parsed = tokens(card)
    starts = [place for place, token in enumerate(parsed) if token.type == "heading_open" and token.tag == level]
    return [parsed[place + 1].content for place in starts]


def cells(card: ModelCard) -> list[list[str]]:
    """Rows of all tables, a cell as it is seen."""
    rows: list[list[str]] = []
    parsed = tokens(card)
    for place, token in enumerate(parsed):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in parsed[place + 1].children))
    return rows


def blocks(card: ModelCard, language: str) -> list[str]:
    return [token.content for token in tokens(card) if token.type == "fence" and token.info == language]


# --- what the Hub reads ---


def test_metadata_comes_back_from_the_file(folder):
    card = card_of(folder)
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-text-to-text", "apache-2.0")
    assert data.tags[0] == "unimp" and data.base_model is None and data.datasets is None

    results = {(each.dataset_split, each.task_type, each.metric_type): each for each in data.eval_results}
    assert {key: each.metric_value for key, each in results.items()} == {
        ("test", "recommend", "hr@10"): 0.5,
        ("test", "recommend", "ndcg@10"): 0.25,
        ("test", "search", "ndcg@10"): 0.25,
        ("test", "rate", "mae"): 0.8,
        ("test", "rate", "rmse"): 1.5,
        ("test", "explain", "rougeL"): 0.5,
        ("new_users", "recommend", "ndcg@10"): 0.125,
    }
    best = results["test", "recommend", "ndcg@10"]
    assert best.metric_name == "ndcg@10 (95 % interval 0.200 to 0.300)"
    assert (best.task_name, best.dataset_name, best.dataset_type) == ("Recommend", "Made-up shop", "made-up_shop")
    assert best.dataset_args == {"protocol": "leave_last_out", "cases": 1200}

    index = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["model-index"]
    name, again = model_index_to_eval_results(index)
    assert name == "unimp-mugs" and eval_results_to_model_index(name, again) == index


def test_the_hub_takes_it(folder, tmp_path, monkeypatch):
    hub = HubServer(tmp_path / "hub", {})
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    card_of(folder).validate()
    assert hub.requests == ["POST /api/validate-yaml"]
    hub.close()


def test_without_vision_it_is_a_model_of_text(folder):
    edit(folder / "config.json", vision_config=None, fusion="none")
    card = card_of(folder)
    assert card.data.pipeline_tag == "text-generation" and "multimodal" not in card.data.tags
    assert "without pictures." in card.text and "The pictures of the items" not in card.text


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("gpt2", True),
        ("open_clip:ViT-L-14/openai", False),
        ("/home/ada/models/qwen", False),
        ("../qwen", False),
        (None, False),
    ],
)
def test_base_models_are_those_of_the_hub(folder, name, is_named):
    edit(folder / "config.json", text_model=name)
    card = card_of(folder)
    assert card.data.base_model == ([name] if is_named else None)
    assert "/home/ada" not in card.text
    assert ("It is built on" in card.text) == is_named


def test_a_folder_of_this_name_is_no_base_model(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    edit(folder / "config.json", text_model="models/qwen")
    assert card_of(folder).data.base_model is None


def test_results_of_a_data_set_are_files_that_the_hub_reads(folder):
    results = RESULTS | {"new domain": {"search": found("ndcg@10", {"ndcg@10": float("nan")}, {})}}
    write_record(folder, results)
    assert not (folder / ".eval_results").exists()
    card = card_of(folder, dataset_id="shop/mugs-2025", dataset_revision="abc")
    entries = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "mugs-2025.yaml").read_text()))
    assert {entry.task_id: entry.value for entry in entries} == {
        "recommend": 0.25,
        "search": 0.25,
        "rate": 1.5,
        "explain": 0.5,
        "new_users_recommend": 0.125,
    }
    first = entries[0]
    assert (first.dataset_id, first.dataset_revision) == ("shop/mugs-2025", "abc")
    assert first.source_url == "https://huggingface.co/shop/unimp-mugs"
    assert first.notes == "ndcg@10, 1200 cases, leave_last_out, 95 % interval 0.200 to 0.300"
    assert entries[3].notes == "rougeL, 1200 cases, leave_last_out"
    assert card.data.datasets == ["shop/mugs-2025"]
    assert {each.dataset_type for each in card.data.eval_results} == {"shop/mugs-2025"}


def test_only_the_owner_knows_the_licence(folder):
    assert "published as `apache-2.0`" in card_of(folder).text
    write_record(folder, items="data/my-shop/items.csv")
    card = card_of(folder)
    assert card.data.license == "unknown" and "No licence has been named for this model" in card.text
    assert card.data.eval_results[0].dataset_name == "my-shop"
    card = card_of(folder, license="cc-by-4.0")
    assert card.data.license == "cc-by-4.0" and "published as `cc-by-4.0`" in card.text


# --- what people read ---


def test_every_number_stands_beside_trivial_answers(folder):
    write_record(
        folder, RESULTS | {"new users": {"rate": found("rmse", {"rmse": 1}, {"mean": {"rmse": 1}}, (0.9, 1.1))}}
    )
    card = card_of(folder)
    assert headings(card, "h1") == ["unimp-mugs"] and headings(card, "h2") == HEADINGS
    rows = cells(card)
    cases = "1,200 (3 skipped)"
    for row in (
        ["recommend", cases, "ndcg@10", "0.250 (0.200 to 0.300)", "popularity 0.100", "yes"],
        ["search", cases, "ndcg@10", "0.250 (0.200 to 0.300)", "in query 0.280; random 0.000", "unclear"],
        ["rate", cases, "rmse (less is better)", "1.500 (1.400 to 1.600)", "constant 1.250; mean 2.000", "no"],
        ["explain", cases, "rougeL", "0.500", "commonest text 0.250", "yes, but no interval"],
        ["rate", cases, "rmse (less is better)", "1.000 (0.900 to 1.100)", "mean 1.000", "unclear"],
        ["test", "recommend", "this model", "hr@10 0.500, ndcg@10 0.250"],
    ):
        assert row in rows
    assert (
        "**A trivial baseline is as good or better on** search (in query 0.280 against 0.250), rate (constant 1.250 "
        "against 1.500) and rate, new users (mean 1.000 against 1.000)." in card.text
    )


def test_few_cases_are_too_few_to_tell(folder):
    one = found("ndcg@10", {"ndcg@10": 0.43}, {"popular": {"ndcg@10": 0.45}}, (0.43, 0.43)) | {"cases": 1}
    write_record(folder, {"test": {"recommend": one}})
    card = card_of(folder)
    assert next(row for row in cells(card) if row[0] == "recommend")[-1] == "too few cases"
    assert "as good or better" not in card.text


def test_what_the_network_earns_is_told(folder):
    assert "closed form" not in card_of(folder).text
    found = {"metric": "rmse", "cases": 1200, "network": 1.1, "closed_form": 0.9, "together": 0.95, "asked": "rate"}
    write_record(folder, fit={"search": None, "rate": found | {"weight": 0.0}})
    parsed = tokens(card_of(folder))
    items = [parsed[place + 2].content for place, token in enumerate(parsed) if token.type == "list_item_open"]
    assert items[0].startswith("search: without validation cases no closed")
    assert items[1].startswith("rate: RMSE on 1,200 validation cases: network 1.1000, closed form 0.9000")
    assert items[1].endswith("the network does not earn its weight here, and gets none.")


def test_of_a_refit_model_the_card_says_whose_numbers_they_are(folder):
    """What was tested is not what is published, which has learnt the test, too."""
    before = "numbers are of the model before it was trained again on all interactions"
    plain = card_of(folder)
    assert before not in plain.text and "refit" not in plain.text
    assert "what all shoppers of the training part did together" in plain.text

    write_record(folder, new_users=0.1, refit=True)
    card = card_of(folder, dataset_id="shop/mugs-2025")
    results = card.text.split("## Results")[1].split("## Data and split")[0]
    assert before in results and "this model" not in results
    assert ["test", "rate", "model before refit", "mae 0.800, rmse 1.500"] in cells(card)
    private = card.text.split("- **In the weights:**")[1].split("\n")[0]
    assert "with all that was held out for validation and test" in private and "training part" not in private
    split = card.text.split("## Data and split")[1].split("## Recipe")[0]
    assert "10% of the shoppers were left out altogether" in split
    assert "after the test the model was trained again on all of these interactions" in split
    assert {each.metric_name.split(" (")[0] for each in card.data.eval_results if each.task_type == "rate"} == {
        "mae, before refit",
        "rmse, before refit",
    }
    entries = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "mugs-2025.yaml").read_text()))
    assert all("of the model before it was trained again" in entry.notes for entry in entries)


def test_protocol_and_recipe(folder):
    write_record(
        folder, new_users=0.25, k_core=3, query_attribute="category", unimp={"num_latents": 2}, items="a/b.csv"
    )
    text = card_of(folder).text
    for words in (
        "a shopper's last interaction is the test",
        "25% of the shoppers were left out altogether",
        "Shoppers and items with at least 3 interactions each.",
        "- 12,345 users outside the 5-core",
        "What the split leaks: 7.0 % of the training interactions are newer.",
        "Cases to train on: recommend 4.",
        "Trained in 12.34 minutes",
        "device cpu",
        "Of a longer history the network reads the latest 5 items.",
        "Before the split, each item and each shopper had at least 3 interactions.",
        "Trained and tested on b: 6 items, 5 of them with a picture.",
    ):
        assert words in text, words
    write_record(folder, split="by_time", validation_from=10.0, test_from=20.0, k_core=0, held_out_domain="hats")
    text = card_of(folder).text
    assert "(validation from 10.0, test from 20.0); the domain hats was held out." in text
    assert "Here that can be a single person" in text
    write_record(folder, removed={})
    assert "Nothing was removed." in card_of(folder).text


def test_the_recipe_trains_it_again(folder, tmp_path, monkeypatch):
    """What was chosen, and nothing of the machine."""
    items = "/home/ada/shop/items.parquet"
    write_record(
        folder, items=items, interactions=r"C:\Users\ada\log.csv", vision_model="open_clip:local-dir:/home/ada/clip",
        feature_store="/home/ada/features", task_weights={"rate": 2}, exclude_seen=False, hub_token="hf_secret",
    )  # fmt: skip
    (block,) = blocks(card_of(folder), "yaml")
    assert "ada" not in block and "secret" not in block
    assert yaml.safe_load(block) == {
        "items": "items.parquet",
        "interactions": "log.csv",
        "tasks": ["recommend", "search", "rate", "explain"],
        "exclude_seen": False,
        "vision_model": "open_clip:local-dir:clip",
        "learning_rate": 0.5,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "use_cpu": True,
        "task_weights": {"rate": 2},
    }
    (tmp_path / "recipe.yaml").write_text(block)
    monkeypatch.setattr(
        "sys.argv", ["train.py", "--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)]
    )
    data_args, model_args, args = parse_recipe()
    assert data_args.tasks == ["recommend", "search", "rate", "explain"] and not data_args.exclude_seen
    assert args.learning_rate == 0.5 and args.task_weights == {"rate": 2}


def test_the_lines_of_code_answer(folder, trained, monkeypatch):
    monkeypatch.chdir(folder.parent)
    known: dict[str, Any] = {}

    def answer() -> dict[str, Any]:
        (code,) = blocks(ModelCard.load(write_model_card(folder, trained)), "python")
        *_, request = code.strip().split("\n")
        exec(code.replace(request, f"answer = {request}"), known)
        return known["answer"]

    seen = answer()
    assert seen["task"] == "recommend" and len(seen["items"]) == 3
    # Published without the pictures, and given them back as the card says.
    Catalogue.load(trained).save(folder, images=False)
    assert answer() != seen
    (give_back,) = re.findall(r"`(unimp.processor.catalogue = .*?)`", (folder / "README.md").read_text())
    exec(give_back.replace("items.parquet", str(trained)), known)
    assert known["unimp"]({"task": "recommend", "history": ["m1", "m2"]}, top_k=3) == seen


@pytest.mark.parametrize("task", ["search", "rate", "explain", "select"])
def test_the_lines_of_code_are_for_a_task_of_the_model(folder, trained, task):
    write_record(folder, tasks=[task])
    (folder / "modeling_unimp.py").touch()
    remote, package = blocks(card_of(folder), "python")
    assert 'pipeline("personalization", model="shop/unimp-mugs", trust_remote_code=True)' in remote
    assert "pipeline_class=PersonalizationPipeline" in package
    calls = [ast.parse(code).body[-1].value for code in (remote, package)]  # type: ignore[attr-defined]
    requests = [ast.literal_eval(call.args[0]) for call in calls]
    assert requests[0] == requests[1] and requests[0]["task"] == task
    answer = PersonalizationPipeline(
        model=make_model(processor := make_model_processor(query_attribute="category")), processor=processor
    )(requests[0])
    assert answer["task"] == task


def test_what_the_folder_holds_is_said(folder, trained):
    text = card_of(folder).text
    assert "with 5 pictures" in text and "The pictures of the items" not in text
    assert "the package `unimp` must be installed" in text and "trust_remote_code" not in text
    assert "no interactions and no shopper ids." in text and "report.html" not in text

    Catalogue.load(trained).save(folder, images=False)
    for name in ("report.html", "modeling_unimp.py", "processing_unimp.py", "recipe.yaml"):
        (folder / name).touch()
    card = ModelCard.load(write_model_card(folder, trained))
    assert "**The pictures of the items are not in this repository**" in card.text
    assert "6 items, 5 of them with a picture." in card.text and "without pictures" in card.text
    assert ["*.py (2 files)", "code of model, processor and pipeline"] in cells(card)
    assert "The exception is `report.html`" in card.text
    # A shop that never had any.
    assert "The pictures of the items" not in card_of(folder).text


@pytest.mark.parametrize("reads_pictures", [True, False])
def test_what_needs_the_pictures_is_not_promised_without_them(folder, trained, tmp_path, reads_pictures):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    if not reads_pictures:
        edit(run / "config.json", vision_config=None, fusion="none")
    write_record(run, tasks=["imagine", "recommend"])
    drawing = "draws a picture"
    whole = ModelCard.load(write_model_card(folder, run)).text
    assert whole.count(drawing) == 2 and "is refused" not in whole and "A picture it draws shows" in whole

    Catalogue.load(trained).save(folder, images=False)
    card = ModelCard.load(write_model_card(folder, run))
    assert drawing not in card.text and "A picture it draws shows" not in card.text
    (left_out,) = [line for line in card.text.split("\n") if line.startswith("**The pictures of the items are not")]
    assert "`imagine` is refused" in left_out and ("are read by their text" in left_out) == reads_pictures
    assert '"task": "recommend"' in blocks(card, "python")[0]

    write_record(run, tasks=["imagine"])
    card = ModelCard.load(write_model_card(folder, run))
    assert "answers nothing without pictures of the items" in card.text and drawing not in card.text


def test_what_a_model_does_not_do_is_not_said_of_it(folder):
    edit(folder / "config.json", item_rows="both")
    ranked, rate = RESULTS["test"]["recommend"], RESULTS["test"]["rate"]
    write_record(folder, {"test": {"recommend": ranked, "rate": rate}}, tasks=["recommend", "rate", "explain"])
    text = card_of(folder).text
    for words in (
        "Rankings are over the whole catalogue; ties count against the model. Validation chose the checkpoint; the",
        "For requests to recommend, rate and explain, about the catalogue",
        "explanations above all.",
        "A new item is known by its text and picture, not",
        "What was popular in the training data is recommended more",
    ):
        assert words in text, words
    edit(folder / "config.json", vision_config=None, fusion="none")
    write_record(folder, {"test": {"rate": rate}}, tasks=["rate"], load_best_model_at_end=False)
    text = card_of(folder).text
    assert "Rankings are over" not in text and "is recommended more" not in text and "explanations above" not in text
    assert "The checkpoint is the last one of the training, validation chose none; the test was touched" in text
    assert "For requests to rate, about" in text and "A new item is known by its text, not" in text


def test_shoppers_words_in_the_tokenizer(folder):
    assert "`tokenizer.json` can hold a rare word, such as a name" in card_of(folder).text
    edit(folder / "config.json", text_model="gpt2")
    text = card_of(folder).text
    assert "Words of the training explanations can come back" in text and "rare word" not in text
    write_record(folder, tasks=["recommend"])
    assert "Words of the training explanations" not in card_of(folder).text


def test_pictures_as_answers(folder):
    model = {"gain": 0.02, "similarity": 0.75, "nll": 4.0}
    baselines = {"random item": {"gain": 0.01, "similarity": 0.5, "nll": float("nan")}}
    codec = {"psnr": 24.126, "codes_used": 498}
    write_record(
        folder, {"test": {"imagine": found("gain", model, baselines, (0.015, 0.03))}}, codec, tasks=["imagine"]
    )
    card = card_of(folder)
    assert "image codec: psnr 24.126, codes_used 498." in card.text
    assert "A picture it draws shows nothing that can be bought" in card.text
    assert "calibrated" not in card.text
    assert ["test", "imagine", "random item", "gain 0.010, similarity 0.500, nll -"] in cells(card)


def test_how_much_of_a_history_counts(folder):
    (folder / "hybrid_scores.safetensors").touch()
    of_network = "Of a longer history the network reads the latest 5 items, and closed-form scores the latest 200"
    assert f"{of_network}." in card_of(folder).text
    fit = {"metric": "rmse", "cases": 9, "network": 1, "closed_form": 1, "together": 1, "asked": "rate", "weight": 1}
    write_record(folder, fit={"rate": fit})
    assert f"{of_network} (those of stars the whole history)." in card_of(folder).text


def test_a_run_without_evaluation(folder):
    write_record(folder, {})
    card = card_of(folder)
    assert "This run was not evaluated." in card.text and card.data.eval_results is None
    assert "model_name" not in card.data.to_dict() and headings(card, "h2") == HEADINGS


# --- what nobody can write into it ---


def say_everywhere(folder: Path, words: str) -> ModelCard:
    """The card of a run whose shop, recipe, data and baselines say nothing but these words."""
    whole = words.replace("\ud800", "")  # a table cannot hold half a character
    Catalogue.from_items([{"item_id": whole, whole: whole}, {"item_id": "b", whole: None}]).save(folder)
    edit(folder / "processor_config.json", attributes=[whole], query_attribute=whole)
    edit(folder / "config.json", text_model=f"open_clip:{words}")
    results = {
        part: {"recommend": found("ndcg@10", {"ndcg@10": 0.5}, {words: {"ndcg@10": value}})}
        for part, value in {"test": 0.25, words: 0.75}.items()
    }
    write_record(
        folder, results, items=words, attributes=[words], held_out_domain=words, removed={words: 1}, leaks=words,
        unimp={words: words}, task_weights={words: 1}, codec={words: words},
    )  # fmt: skip
    return card_of(folder)


def structure(card: ModelCard) -> list:
    return [(token.type, token.tag, [child.type for child in token.children or []]) for token in tokens(card)]


def test_words_of_others_stay_words(folder):
    plain, card = say_everywhere(folder, "words"), say_everywhere(folder, HOSTILE)
    assert structure(card) == structure(plain)
    assert card.data.license == plain.data.license == "unknown"
    assert card.data.to_dict().keys() == plain.data.to_dict().keys()
    assert headings(card, "h1") == ["unimp-mugs"] and headings(card, "h2") == HEADINGS
    seen = " ".join(HOSTILE.replace("\u202e", " ").replace("\ud800", " ").split())
    assert ["test", "recommend", seen, "ndcg@10 0.250"] in cells(card)
    # Addresses that a page would turn into links by itself.
    text = "\n".join(child.content for token in tokens(card) if token.type == "inline" for child in token.children)
    assert "www.bad.example @all" in text and "www\\.bad.example \\@all" in card.text

    (block,) = blocks(card, "yaml")
    recipe = yaml.safe_load(block)
    assert recipe["attributes"] == [HOSTILE] and recipe["unimp"] == {HOSTILE: HOSTILE}
    assert recipe["task_weights"] == {HOSTILE: 1}
    (code,) = blocks(card, "python")
    call = ast.parse(code).body[-1].value  # type: ignore[attr-defined]
    assert ast.literal_eval(call.args[0]) == {"task": "recommend", "history": [HOSTILE.replace("\ud800", "")]}
    assert "\u202e" not in code


def test_what_cannot_be_described_is_refused(folder, tmp_path):
    for name, message in (
        ("results.json", "holds no results.json. Expected a folder that train.py saved"),
        ("catalogue.parquet", "holds no catalogue.parquet"),
        ("config.json", "holds no config.json"),
    ):
        shutil.move(folder / name, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            write_model_card(folder, folder)
        shutil.move(tmp_path / name, folder / name)
    with pytest.raises(ValueError, match="'a b/c' is no name of a repository"):
        write_model_card(folder, folder, "a b/c")
    with pytest.raises(ValueError, match="'-' is no name of a repository"):
        write_model_card(folder, folder, "shop/unimp", dataset_id="-")
    assert not (folder / "README.md").exists() and os.listdir(folder)
