"""The split that RecTools is given, and the metrics of its ranks: known by hand, and equal to ours. RecTools itself is
not needed."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from shop import INTERACTIONS, make_catalogue, save_demo_shop

from benchmarks import transformer_baselines
from modeling_unimp.training.evaluation import bootstrap
from modeling_unimp.training.experiment import evaluation_cases_of, load_shop, split_histories
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Histories
from processing_unimp.metrics.summary import summarise

# ada: m1 s1 h1 m2, bob: m2 s2 h2 m1 s1, cyd: h1 h2 s2 m1; dee buys her first item again.
DEE = [{"user_id": "dee", "item_id": item, "timestamp": t} for t, item in enumerate(["s2", "h2", "h1", "s2"])]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["transformer_baselines", *map(str, arguments)])
    transformer_baselines.main()


def export(monkeypatch, shop, folder, *arguments):
    tables = ["--items", shop, "--interactions", shop]
    run(monkeypatch, "export", "--output", folder, *tables, "--k_core", "0", *arguments)


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    catalogue = make_catalogue()
    catalogue.save(folder)
    histories = Histories.from_interactions([dict(event) for event in INTERACTIONS] + DEE, catalogue)
    histories.to_dataset().to_parquet(str(folder / "interactions.parquet"))
    return folder


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_export_by_hand(shop, tmp_path, monkeypatch):
    folder = tmp_path / "split"
    export(monkeypatch, shop, folder, "--new_users", "0")
    assert [row["item_id"] for row in rows_of(folder / "items.parquet")] == ["m1", "m2", "s1", "s2", "h1", "h2"]
    trained_on = [(row["user_id"], row["position"], row["item_id"]) for row in rows_of(folder / "train.parquet")]
    of_users = {"ada": ["m1", "s1"], "bob": ["m2", "s2", "h2"], "cyd": ["h1", "h2"], "dee": ["s2", "h2"]}
    assert trained_on == [(user, place, item) for user, items in of_users.items() for place, item in enumerate(items)]

    def case(user, history, true):
        return {"user_id": user, "position": len(history), "history": history, "item_id": true, "hidden": history}

    assert rows_of(folder / "validation.parquet") == [
        case("ada", ["m1", "s1"], "h1"),
        case("bob", ["m2", "s2", "h2"], "m1"),
        case("cyd", ["h1", "h2"], "s2"),
        case("dee", ["s2", "h2"], "h1"),
    ]
    # What dee buys again cannot be ranked where seen items are left out.
    assert rows_of(folder / "test.parquet") == [
        case("ada", ["m1", "s1", "h1"], "m2"),
        case("bob", ["m2", "s2", "h2", "m1"], "s1"),
        case("cyd", ["h1", "h2", "s2"], "m1"),
    ]
    record = json.loads((folder / "split.json").read_text())
    assert record["parts"] == {"validation": {"cases": 4, "skipped": 0}, "test": {"cases": 3, "skipped": 1}}
    assert not (folder / "new_users.parquet").exists()


def test_where_seen_items_stay_nothing_is_hidden_and_a_repeat_is_asked(shop, tmp_path, monkeypatch):
    folder = tmp_path / "split"
    export(monkeypatch, shop, folder, "--new_users", "0", "--exclude_seen", "false")
    rows = rows_of(folder / "test.parquet")
    assert [row["item_id"] for row in rows] == ["m2", "s1", "m1", "s2"]
    assert [row["hidden"] for row in rows] == [[]] * 4


def test_parts_of_an_earlier_export_do_not_stay(shop, tmp_path, monkeypatch):
    folder = tmp_path / "split"
    export(monkeypatch, shop, folder, "--new_users", "0.25")
    assert len(rows_of(folder / "train.parquet")) < 9
    assert (folder / "new_users.parquet").exists()
    export(monkeypatch, shop, folder, "--new_users", "0")
    assert len(rows_of(folder / "train.parquet")) == 9
    assert not (folder / "new_users.parquet").exists()


def test_ranks_by_hand():
    scores = np.array([0.5, 0.9, 0.5, 0.1, -np.inf, -np.inf])
    nobody = np.array([], dtype=np.int64)
    assert transformer_baselines.rank_of(scores, 1, nobody) == 1
    assert transformer_baselines.rank_of(scores, 0, nobody) == 3  # behind the best and the equal one
    assert transformer_baselines.rank_of(scores, 0, np.array([1])) == 2
    assert transformer_baselines.rank_of(scores, 4, np.array([1, 1])) == 5  # never met in training: last
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        transformer_baselines.rank_of(np.array([0.0, np.nan]), 0, nobody)


def test_metrics_by_hand():
    ranks = np.array([1, 3, 10, 11])
    found = transformer_baselines.summary(ranks)
    assert found["cases"] == 4 and found["hr@10"] == 3 / 4
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(11)) / 4)
    assert transformer_baselines.summary(np.array([3, 3]))["interval"] == [0.5, 0.5]


def test_cases_ranks_and_metrics_are_those_of_train(tmp_path, monkeypatch):
    save_demo_shop(tmp_path, num_items=40, num_shoppers=60)
    # recommend is not the first task: what is drawn for its cases depends on its place
    options = [
        "--tasks",
        "rate",
        "recommend",
        "--seed",
        "7",
        "--max_test_cases",
        "30",
        "--query_attribute",
        "category",
    ]
    export(monkeypatch, tmp_path, tmp_path / "split", *options)
    data_args, _, args = parse_recipe()
    catalogue, histories = load_shop(data_args)
    split = split_histories(histories, catalogue, data_args)
    number_of = {item_id: number for number, item_id in enumerate(catalogue.item_ids)}
    for part, targets, most in [
        ("validation", split.validation, None),
        ("test", split.test, 30),
        ("new_users", split.new_users, 30),
    ]:
        cases = evaluation_cases_of(targets, data_args, catalogue, most)[1]
        exported = transformer_baselines.Part.load(tmp_path / "split" / f"{part}.parquet", number_of)
        assert exported.users == [case.user_id for case in cases.cases]
        assert exported.positions == [len(case.history) for case in cases.cases]
        whole = [[event.item_id for event in case.history] for case in cases.cases]
        assert [[catalogue.item_id(item) for item in history] for history in exported.histories] == whole

        outputs = np.random.default_rng(0).integers(20, size=(len(cases), len(catalogue))).astype(float)  # with ties
        scores = cases.scores(outputs)
        exported_cases = zip(outputs, exported.targets, exported.hidden, strict=True)
        ranks = np.array([transformer_baselines.rank_of(*each) for each in exported_cases])
        np.testing.assert_array_equal(ranks, scores["rank"])
        ours, theirs = transformer_baselines.summary(ranks), summarise(cases.task, scores)
        assert ours["ndcg@10"] == pytest.approx(theirs["ndcg@10"]) and ours["hr@10"] == pytest.approx(theirs["hr@10"])
        # Of so few cases an evaluation gives none.
        often = bootstrap(cases.task, {name: np.concatenate([column] * 30) for name, column in scores.items()})
        assert transformer_baselines.summary(np.tile(ranks, 30))["interval"] == pytest.approx(often)


def test_a_recipe_that_does_not_recommend_has_nothing_to_compare(shop, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tasks: rate, search: expected recommend among them"):
        export(monkeypatch, shop, tmp_path / "split", "--tasks", "rate", "search")
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("factors", "63", r"factors: \[63\]: expected multiples of the 2 attention heads"),
        ("dropout", "1", r"dropout: \[1.0\]: expected shares from 0 to below 1"),
        ("session_length", "0", "session_length: 0: expected 1 or more"),
        ("max_epochs", "3", "max_epochs: 3: expected at least the 5 epochs of evaluate_every"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_training(shop, tmp_path, monkeypatch, option, value, message):
    with pytest.raises(ValueError, match="holds no split.json. Make the folder with `export` first"):
        run(monkeypatch, "fit", "--data", tmp_path, "--model", "sasrec")
    export(monkeypatch, shop, tmp_path / "split", "--new_users", "0")
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, "fit", "--data", tmp_path / "split", "--model", "sasrec", f"--{option}", value)


def test_an_option_that_does_not_exist_is_no_option(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "fit", "--data", tmp_path, "--model", "sasrec", "--layers", "3")
    assert "unknown: --layers 3" in capsys.readouterr().err
