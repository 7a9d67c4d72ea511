"""Tables of headlines: what two runs and their baselines come to, by hand."""

import json

import numpy as np
import pytest

from benchmarks import headlines
from benchmarks.baselines import BASELINE_CASES
from hub_cards.run_record import CASES, RESULTS, save_by_case


def result_of(value, baselines, **parts):
    return {
        "cases": 4,
        "skipped": 1,
        "headline": "ndcg@10",
        "interval": [0.1, 0.9],
        "reliability": {"ece": 0.02, "ece_by_chance": 0.01},
        "model": {"ndcg@10": value, "coverage@10": 0.5, "novelty@10": 9.0, "diversity@10": 0.75},
        "parts": {name.replace("_", " "): {"ndcg@10": part} for name, part in parts.items()},
        "baselines": {name: {"ndcg@10": own} for name, own in baselines.items()},
    }


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, value in zip(folders, (0.5, 0.7), strict=True):
        folder.mkdir()
        result = result_of(value, {"popularity": 0.125}, network_alone=value - 0.25, closed_form_alone=0.3)
        (folder / RESULTS).write_text(json.dumps({"results": {"test": {"recommend": result}}}))
        by_case = {
            ("test", "recommend", "UniMP"): np.full(4, value),
            ("test", "recommend", "network alone"): np.full(4, value - 0.25),
            ("test", "recommend", "closed form alone"): np.full(4, 0.3),
        }
        save_by_case(folder / CASES, by_case)
    return folders


@pytest.fixture
def baselines(tmp_path):
    folder = tmp_path / "cheap"
    folder.mkdir()
    validation = {"best blend": 0.9, "kNN": 0.2, "EASE": 0.4, "text": 0.3, "EASE + same attribute": 0.1}
    rows = {
        name: {"validation": value, "metrics": {"ndcg@10": value / 2}, "interval": [0, 1]}
        for name, value in validation.items()
    }
    found = {"results": {"test": {"recommend": {"headline": "ndcg@10", "baselines": rows}}}}
    (folder / "baselines.json").write_text(json.dumps(found))
    save_by_case(
        folder / BASELINE_CASES,
        {("test", "recommend", name): np.full(4, value / 2) for name, value in validation.items()},
    )
    return folder


def test_runs_of_two_seeds(runs, baselines):
    row = headlines.table("test", runs, baselines).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "recommend",
        "4 (1)",
        "ndcg@10",
        "0.6000 (0.5000, 0.7000)",
        "0.3500",
        "0.3000: 2.00 [2.00 - 2.00]",
        "popularity 0.1250",
        # Those that validation prefers, the best first, and the usual one; the blend is no single answer.
        "EASE 0.2000: 3.00 [3.00 - 3.00]; text 0.1500: 4.00 [4.00 - 4.00]; "
        "EASE + same attribute 0.0500: 12.00 [12.00 - 12.00]",
        "0.50, 9.0 bits, 0.75",
        "0.020 (0.010)",
    ]


def test_one_run_has_an_interval_and_needs_no_cheap_answers(runs):
    cells = headlines.table("test", runs[:1], None).splitlines()[-1].split(" | ")
    assert cells[3] == "0.5000 [0.1000 - 0.9000]" and cells[7] == ""


def test_items_that_nothing_is_known_of_have_no_diversity(runs):
    for folder in runs:
        results = json.loads((folder / RESULTS).read_text())
        results["results"]["test"]["recommend"]["model"]["diversity@10"] = None
        (folder / RESULTS).write_text(json.dumps(results))
    assert headlines.table("test", runs, None).splitlines()[-1].split(" | ")[8] == "0.50, 9.0 bits, -"


def test_networks_beside_all_cheap_answers(runs):
    assert headlines.networks("test", runs) == "recommend 1.17 [1.17 - 1.17]"


def test_new_users_beside_known_ones(runs):
    assert headlines.new_to_known(runs) == ""  # nobody is new
    for run, value in zip(runs, (0.2, 0.4), strict=True):
        known = {("test", "recommend", "UniMP"): np.full(4, value + 0.3)}
        save_by_case(run / CASES, known | {("new users", "recommend", "UniMP"): np.full(3, value)})
    assert headlines.new_to_known(runs) == "recommend 0.50 [0.50 - 0.50]"


def test_cheap_answers_to_other_cases_are_not_compared(runs, baselines):
    save_by_case(baselines / BASELINE_CASES, {("test", "recommend", "EASE"): np.full(3, 0.2)})
    assert "EASE 0.2000: other cases" in headlines.table("test", runs, baselines)


def test_curves_are_of_the_latest_checkpoint_and_of_all_before_it(runs):
    for step, seen in ((90, 1), (100, 2)):
        folder = runs[0] / f"checkpoint-{step}"
        folder.mkdir()
        history = [
            {"loss": 1.0},
            {"eval_recommend_ndcg@10": 0.125, "eval_rate_rmse": 1.5},
            {"eval_recommend_ndcg@10": 0.25, "eval_rate_rmse": 1.25},
        ]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history[: seen + 1]}))
    assert headlines.curves(runs).splitlines()[2:] == [
        "| a | recommend_ndcg@10 | 0.1250, 0.2500 |",
        "| a | rate_rmse | 1.5000, 1.2500 |",
    ]
