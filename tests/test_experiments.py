"""The paper's experiments: each is a recipe that can be read, and what the table compares, by hand."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from benchmarks import experiments
from benchmarks.baselines import BASELINE_CASES
from hub_cards.run_record import CASES, RESULTS, save_by_case
from modeling_unimp.training.recipe import parse_recipe

ROOT = Path(__file__).parent.parent
ALL = yaml.safe_load((ROOT / experiments.EXPERIMENTS).read_text())


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def given(tmp_path):
    # As `prepare` writes them: a price that every item has.
    fields = [("item_id", pa.string()), ("title", pa.string()), ("price", pa.float64()), ("image", pa.string())]
    schema = pa.schema([pa.field(name, kind, nullable=name != "price") for name, kind in fields])
    columns = {
        "item_id": map(str, range(50)),
        "title": ["x"] * 50,
        "price": [1.0] * 50,
        "image": ["a.png", "b.png"] * 25,
    }
    items = pa.table({name: list(values) for name, values in columns.items()}, schema=schema)
    for name in ("h_and_m", "movielens"):
        (tmp_path / name).mkdir()
        experiments.pq.write_table(items, tmp_path / name / "items.parquet")
    of_shops = {shop: str(tmp_path / shop) for shop in experiments.SHOPS}
    return argparse.Namespace(
        **of_shops,
        **{f"{shop}_images": None for shop in of_shops},
        vision_model="tower",
        feature_store="features",
        output_dir=str(tmp_path / "runs"),
    )


@pytest.mark.parametrize("name", ALL)
def test_every_experiment_is_a_recipe(name, given, tmp_path, monkeypatch):
    folder = experiments.folder_of(given.output_dir, name, 7)
    recipe = experiments.arguments_of(ALL[name], given, folder, 7)
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config)])
    data_args, model_args, args = parse_recipe()
    assert args.seed == 7 and data_args.split_seed == 42 and str(args.output_dir) == str(folder)
    assert {*data_args.shares, *args.task_weights} <= set(data_args.tasks)
    for changed, value in ALL[name].get("changes", {}).items():
        found = next(getattr(group, changed) for group in (data_args, model_args, args) if hasattr(group, changed))
        assert found == value if not isinstance(value, dict) else value.items() <= found.items()
        if isinstance(value, dict):
            assert len(found) > len(value), "the rest of the recipe's stays"
    if "shop" in ALL[name]:
        # As a newcomer's command: two tables and where to put the result.
        assert recipe.keys() == {"items", "interactions", "output_dir", "seed", "report_to"}
        assert data_args.items == data_args.interactions == getattr(given, ALL[name]["shop"])
    assert ALL[name].get("against", "h_and_m") in ALL


def test_stages_begin_where_the_one_before_ended_and_the_last_is_tested(given, tmp_path, monkeypatch):
    calls = []
    ended = argparse.Namespace(returncode=0)
    monkeypatch.setattr(experiments.subprocess, "run", lambda command, **_: calls.append(command[-1]) or ended)
    name = "made_up, one task after another"
    experiments.run(name, ALL[name], given, 7)
    recipes = [yaml.safe_load(Path(each).read_text()) for each in calls]
    assert [recipe["tasks"] for recipe in recipes[:-1]] == [["recommend"], ["search"], ["rate"], ["explain"]]
    assert recipes[-1]["tasks"] == ["recommend", "search", "rate", "explain", "select"]
    assert [task for task in recipes[-1]["tasks"] if recipes[-1]["task_shares"].get(task, 1)] == ["select"]
    assert [each.get("initial_model") for each in recipes] == [None, *(each["output_dir"] for each in recipes[:-1])]
    assert [each.get("max_test_cases") for each in recipes] == [1] * 4 + [300]
    assert sum(each["num_train_epochs"] for each in recipes) == 3
    calls.clear()
    name = "made_up, then recommend alone"
    experiments.run(name, ALL[name], given, 7)
    (recipe,) = (yaml.safe_load(Path(each).read_text()) for each in calls)
    assert recipe["initial_model"] == str(experiments.folder_of(given.output_dir, "made_up, recommend at weight 1", 7))


def test_what_is_spoilt():
    number = 2_000
    items = pa.table(
        {
            "item_id": [str(row) for row in range(number)],
            "title": ["words"] * number,
            "tags": [["a", "b"]] * number,
            "image": [f"{row}.png" for row in range(number)],
        }
    )
    missing = experiments.spoilt(items, {"attributes": 0.2}, seed=0)
    for name in ("title", "tags"):
        assert missing[name].null_count == pytest.approx(0.2 * number, abs=60)
    assert missing["title"].is_null() != missing["tags"].is_null(), "each cell alone"
    assert (missing["item_id"], missing["image"]) == (items["item_id"], items["image"])
    wrong = experiments.spoilt(items, {"pictures": 0.2}, seed=0)
    changed = np.array(wrong["image"].to_pylist()) != np.array(items["image"].to_pylist())
    assert changed.sum() == pytest.approx(0.2 * number, abs=60) and wrong["title"] == items["title"]
    assert sorted(wrong["image"].to_pylist()) == sorted(items["image"].to_pylist())
    cold = experiments.spoilt(items, {"items": 0.1}, seed=0)
    assert cold["domain"].to_pylist().count("cold") == pytest.approx(0.1 * number, abs=45)
    assert cold.drop_columns("domain") == items


def test_ratios_of_pairs():
    theirs = np.random.default_rng(0).random(200)
    assert experiments.paired_ratio(1.5 * theirs, theirs, False) == pytest.approx((1.5, 1.5, 1.5))
    assert experiments.paired_ratio(0.5 * theirs, theirs, True) == pytest.approx((0.5, 0.5, 0.5))
    # Cases of 0 and 1 against .5 of each: about 1, and surely between .7 and 1.3.
    ratio, low, high = experiments.paired_ratio((theirs > 0.5).astype(float), np.full(200, 0.5), False)
    assert ratio == (theirs > 0.5).mean() / 0.5 and 0.7 < low < ratio < high < 1.3


def test_runs_with_cases_of_their_own_are_all_counted(tmp_path):
    for seed, headlines in enumerate(([0.0, 1.0], [1.0, 1.0], [1.0, 1.0, 0.5])):
        values = {("test", "search", "UniMP"): np.array(headlines)}
        save_by_case(tmp_path / f"{seed}.npz", values)
    of = [tmp_path / f"{seed}.npz" for seed in range(3)]
    assert experiments.cases_of(of[:2], "test", "search", "UniMP").tolist() == [0.5, 1.0]
    assert experiments.cases_of(of, "test", "search", "UniMP").tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert experiments.ratio_of(of, of[:2], "test", "search", "UniMP", "UniMP") == "other cases"


def test_ratios_of_cases_of_their_own():
    assert experiments.free_ratio(np.full(10, 0.3), np.full(20, 0.2), False) == pytest.approx((1.5, 1.5, 1.5))
    assert experiments.free_ratio(np.full(10, 0.3), np.full(20, 0.2), True) == pytest.approx((1.5, 1.5, 1.5))
    draws = np.random.default_rng(0).random((2, 400)) > 0.5
    # Two shares of a half, each with a standard error of .025 of .5: a ratio of 1 give or take .071.
    ratio, low, high = experiments.free_ratio(draws[0].astype(float), draws[1].astype(float), False)
    assert ratio == draws[0].mean() / draws[1].mean()
    assert 0.06 < (high - low) / (2 * 1.96) < 0.085 and low < ratio < high


def test_the_table_pairs_the_same_seeds(tmp_path):
    listed = {
        "base": {"of": "x", "table": 1, "seeds": [1, 2]},
        "other, changed": {"of": "x", "table": 3, "against": "base", "seeds": [2]},
        "later": {"of": "x", "table": 4},
    }
    for name, seed, value in (("base", 1, 0.9), ("base", 2, 0.2), ("other, changed", 2, 0.3)):
        folder = experiments.folder_of(str(tmp_path), name, seed)
        folder.mkdir()
        result = {"headline": "ndcg@10", "model": {"ndcg@10": value}, "parts": {"network alone": {"ndcg@10": 0.1}}}
        (folder / RESULTS).write_text(json.dumps({"results": {"test": {"recommend": result}}}))
        of_cases = {"UniMP": value, experiments.NETWORK: value / 3}
        save_by_case(
            folder / CASES,
            {("test", "recommend", who): np.full(30, each, dtype=np.float32) for who, each in of_cases.items()},
        )
    cheap = tmp_path / "cheap"
    cheap.mkdir()
    rows = {name: {"validation": value} for name, value in (("EASE", 0.3), ("kNN", 0.2), ("best blend", 0.4))}
    result = {"headline": "ndcg@10", "baselines": rows}
    (cheap / "baselines.json").write_text(json.dumps({"results": {"test": {"recommend": result}}}))
    save_by_case(
        cheap / BASELINE_CASES, {("test", "recommend", who): np.full(30, 0.5, dtype=np.float32) for who in rows}
    )
    rows = list(experiments.rows_of(listed, str(tmp_path), {"base": cheap}))
    found = experiments.table(rows)
    assert "| base | 1 | 2 | test | recommend | ndcg@10 | 0.5500 (0.9000, 0.2000) | 0.1000 |  | EASE | 1.100" in found
    assert "| best blend | 1.100" in found and "| kNN |" not in found
    # Against the run of seed 2 alone: .3 / .2.
    assert (
        "| other, changed | 3 | 1 | test | recommend | ndcg@10 | 0.3000 (0.3000) | 0.1000 |  | base | 1.500" in found
    )
    assert "later" not in found
    assert experiments.summary(rows).splitlines()[2:] == [
        "| base | 1 | 2 | 0.5500 1.100 [1.100 - 1.100]; network 0.1000 |  |  |  |",
        "| other, changed | 3 | 1 | 0.3000 1.500 [1.500 - 1.500]; network 0.1000 1.500 [1.500 - 1.500] |  |  |  |",
    ]
