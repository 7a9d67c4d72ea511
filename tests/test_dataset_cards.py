"""A shop as a data set: tables that come back as they were, a card that counts, no shopper in public unasked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from hub_server import HubServer
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from shop import INTERACTIONS, ITEMS, make_catalogue, make_histories

from hub_cards.dataset_cards import push_dataset, write_dataset_card
from processing_unimp import Catalogue, Histories, leave_last_out

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "# a | b\n---\nlicense: mit\n\n```\n<b>*x*</b> [y](z) \\ {{ 1 }} 'q' \"q\" \u202e www.bad.example"
SECOND = 1_600_000_000  # 2020-09-13


def make_shop() -> tuple[Catalogue, Histories]:
    """The shop with all that a table may have: domains, an item no longer sold, explanations, dates, rows that go."""
    items = [item | {"domain": "table" if item["category"] == "mug" else "wear"} for item in ITEMS]
    catalogue = Catalogue.from_items([*items, {"item_id": None, "title": "nothing"}])
    catalogue.retire(["h2"])
    catalogue.set_picture_codes(np.array([[0, 1]] * len(catalogue)))
    events: list[dict[str, Any]] = [event | {"timestamp": SECOND + event["timestamp"]} for event in INTERACTIONS]
    events[0]["comment"], events[1]["rating"] = "no task reads it", None
    events.append({"user_id": "dan", "item_id": "gone", "timestamp": SECOND})
    return catalogue, Histories.from_interactions(events, catalogue)


def write_tables(folder: Path, catalogue: Catalogue, histories: Histories) -> None:
    """The files of the two configurations, as a push names them."""
    catalogue.save(folder / "items")
    (folder / "items" / "catalogue.parquet").rename(folder / "items" / "train-00000-of-00001.parquet")
    histories.to_dataset().to_parquet(str(folder / "interactions" / "train-00000-of-00001.parquet"))


def tables_of(card: DatasetCard) -> list[list[str]]:
    tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in tokens[place + 1].children or []))
    return rows


# --- the tables ---


def test_histories_come_back_from_their_table():
    catalogue, histories = make_shop()
    table = histories.to_dataset()
    assert table.column_names == ["user_id", "item_id", "timestamp", "rating", "explanation"]
    again = Histories.from_dataset(table, catalogue)
    assert again.users == histories.users and again.removed == {}
    assert all(again[user] == histories[user] for user in histories)


def test_a_part_of_a_split_is_a_table_of_its_own():
    catalogue, histories = make_shop()
    train = leave_last_out(histories, new_users=0).train.select_users([2, 0])
    again = Histories.from_dataset(train.to_dataset(), catalogue)
    assert again.users == train.users == ["cyd", "ada"]
    assert all(again[user] == train[user] for user in train)
    nobody = histories.truncate(np.array([0, 3, 0]))
    assert Histories.from_dataset(nobody.to_dataset(), catalogue).users == ["bob"]
    bare = Histories.from_interactions([{"user_id": "a", "item_id": "m1", "timestamp": 1}], catalogue)
    assert bare.to_dataset().column_names == ["user_id", "item_id", "timestamp"]


def test_the_card_names_the_files_that_load_dataset_reads(tmp_path):
    catalogue, histories = make_shop()
    folder = tmp_path / "my-shop"
    write_tables(folder, catalogue, histories)
    card = DatasetCard.load(write_dataset_card(folder, catalogue, histories))
    assert [config["config_name"] for config in card.data.configs] == ["items", "interactions"]
    items, interactions = (
        load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
        for name in ("items", "interactions")
    )
    assert (
        load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).column_names == items.column_names
    )
    assert items.features["image"].dtype == "PIL.Image.Image"
    again = Catalogue.from_dataset(items)
    assert again.item_ids == catalogue.item_ids and again.item("m2") == catalogue.item("m2")
    assert again.picture("m1").tobytes() == catalogue.picture("m1").tobytes() and not again.available[-1]
    assert Histories.from_dataset(interactions, again)["bob"] == histories["bob"]


# --- the card ---


def test_the_card_counts(tmp_path):
    catalogue, histories = make_shop()
    rows = tables_of(card := DatasetCard.load(write_dataset_card(tmp_path, catalogue, histories, "shop/mugs")))
    for row in (
        ["items", "6"],
        ["items with a picture", "5"],
        ["items no longer sold", "1"],
        ["shoppers", "3"],
        ["interactions", "13"],
        ["interactions of a shopper, median (most)", "4 (5)"],
        ["interactions with a rating", "12"],
        ["time", "2020-09-13 to 2020-09-13"],
        ["price", "number", "83%"],
        ["domain", "text, which part of the shop", "100%"],
        ["retired", "true or false, no longer sold", "100%"],
        ["image", "picture", "83%"],
        ["rating", "number, 1 to 5 stars", "92%"],
        ["explanation", "text, why the item suits the shopper or does not", "100%"],
    ):
        assert row in rows
    assert "- 1 rows without item_id" in card.text
    assert "- 1 interactions with an item that is not in the catalogue" in card.text
    assert 'load_dataset("shop/mugs", "interactions", split="train")' in card.text
    assert card.data.pretty_name == "mugs" and "recognise a person" in card.text


def test_items_alone(tmp_path):
    card = DatasetCard.load(write_dataset_card(tmp_path / "items-only", make_catalogue()))
    assert [config["config_name"] for config in card.data.configs] == ["items"]
    assert "interactions" not in card.text and "user_id" not in card.text
    assert card.data.pretty_name == "items-only"


def test_times_that_are_no_seconds_stay_numbers(tmp_path):
    catalogue = make_catalogue()
    text = write_dataset_card(tmp_path, catalogue, make_histories(catalogue)).read_text()
    assert "| time | 0 to 4 |" in text


def test_only_the_owner_knows_the_licence(tmp_path):
    catalogue = make_catalogue()
    card = DatasetCard.load(write_dataset_card(tmp_path, catalogue, title="Mugs"))
    assert card.data.license == "unknown" and "**No licence has been named for this data set.**" in card.text
    card = DatasetCard.load(write_dataset_card(tmp_path, catalogue, license="cc-by-4.0"))
    assert card.data.license == "cc-by-4.0" and "published as `cc-by-4.0`" in card.text
    # Written again, it keeps what its owner filled in.
    card = DatasetCard.load(write_dataset_card(tmp_path, catalogue))
    assert (card.data.license, card.data.pretty_name) == ("cc-by-4.0", "Mugs")


def test_what_a_push_said_of_its_files_is_kept(tmp_path):
    info = {"config_name": "items", "features": [{"name": "item_id", "dtype": "string"}]}
    configs = [{"config_name": "items", "data_files": [{"split": "all", "path": "data/items-*"}]}]
    given = yaml.safe_dump({"configs": configs, "dataset_info": [info]})
    (tmp_path / "README.md").write_text(f"---\n{given}---\n")
    data = DatasetCard.load(write_dataset_card(tmp_path, make_catalogue())).data
    assert data.dataset_info == [info] and data.configs == [configs[0] | {"default": True}]


def test_words_of_others_stay_words(tmp_path):
    def card_of(words: str) -> DatasetCard:
        catalogue = Catalogue.from_items([{"item_id": "1", words: words}])
        catalogue.removed[words] = 1
        event = {"user_id": words, "item_id": "1", "timestamp": 1, "explanation": words}
        histories = Histories.from_interactions([event], catalogue)
        return DatasetCard.load(write_dataset_card(tmp_path / str(len(words)), catalogue, histories, title=words))

    def structure(card: DatasetCard) -> list:
        tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
        return [(token.type, token.tag, [child.type for child in token.children or []]) for token in tokens]

    plain, card = card_of("words"), card_of(HOSTILE)
    assert structure(card) == structure(plain) and card.data.license == "unknown"
    assert [" ".join(HOSTILE.replace("\u202e", " ").split()), "text", "100%"] in tables_of(card)
    assert card.data.pretty_name == " ".join(HOSTILE.replace("\u202e", " ").split())


# --- the Hub ---

PUSH = """
import json, sys
from shop import make_catalogue, make_histories
from datasets import load_dataset
from hub_cards.dataset_cards import push_dataset
from processing_unimp import Catalogue, Histories
from processing_unimp.publishing import push_interactions, push_items

catalogue = make_catalogue()
catalogue.set_picture_codes([[0, 1]] * len(catalogue))  # of one model's codec, nobody else's
histories = make_histories(catalogue)
refused = []

def attempt(call, *args, **options):
    try:
        call(*args, **options)
    except ValueError as error:
        refused.append(str(error))

url = push_dataset("shop/mugs", catalogue, histories, license="cc-by-4.0")
url = push_dataset("shop/mugs", catalogue, histories)  # again
items = Catalogue.from_dataset(load_dataset("shop/mugs", "items", split="train"))
loaded = Histories.from_dataset(load_dataset("shop/mugs", "interactions", split="train"), items)
same = all(loaded[user] == histories[user] for user in histories) and items.fingerprint == catalogue.fingerprint
attempt(push_interactions, histories, "shop/log", private=False)
push_items(catalogue, "shop/open")
attempt(push_interactions, histories, "shop/open")
attempt(push_dataset, "shop/open", catalogue, histories)
push_items(catalogue, "ada/known")
push_interactions(histories, "known", public=True)
attempt(push_interactions, histories, "known")  # without a name before it: ada's own
push_dataset("shop/all", catalogue, histories, public=True)
print("ANSWER", json.dumps([url, same, refused, load_dataset("shop/mugs", split="train").column_names]))
"""


@pytest.mark.slow
def test_a_shop_is_published_and_loaded(tmp_path):
    hub = HubServer(tmp_path / "hub", {"hf_ada": {"name": "ada", "orgs": ["shop"]}})
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    settings |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PUSH], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answer = next(line for line in run.stdout.splitlines() if line.startswith("ANSWER "))
    url, same, refused, default = json.loads(answer.removeprefix("ANSWER "))
    assert url == f"{hub.url}/datasets/shop/mugs" and same
    assert default == ["item_id", "title", "category", "price", "image"]

    assert sorted(hub.files("shop/mugs", kind="datasets")) == [
        "README.md",
        "interactions/train-00000-of-00001.parquet",
        "items/train-00000-of-00001.parquet",
    ]
    card = DatasetCard(hub.read("shop/mugs", "README.md", kind="datasets").decode())
    assert card.data.license == "cc-by-4.0"
    assert {info["config_name"]: info["splits"][0]["num_examples"] for info in card.data.dataset_info} == {
        "interactions": 13,
        "items": 6,
    }
    assert ["shoppers", "3"] in tables_of(card)

    is_private = {name: hub.repo(name, "datasets")["private"] for name in ("shop/mugs", "shop/open", "shop/all")}
    assert is_private == {"shop/mugs": True, "shop/open": False, "shop/all": False}
    assert len(refused) == 4 and all("pass public=True if these people know" in each for each in refused)
    assert "to 'shop/log': private=False was asked for" in refused[0]
    assert "to 'shop/open': the repository is public" in refused[1] == refused[2]
    assert "to 'ada/known': the repository is public" in refused[3]
    assert "interactions" not in "".join(hub.files("shop/open", kind="datasets"))
    assert not any("shop/log" in request for request in hub.requests)
    hub.close()


@pytest.mark.parametrize("name", ["mugs", "a b/c", ""])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="Expected ORG/NAME"):
        push_dataset(name, make_catalogue())
