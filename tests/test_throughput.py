"""The throughput benchmark runs on the made-up shop, and its tables say what was measured."""

import sys

import pytest
import torch
from PIL import Image

from benchmarks import throughput
from benchmarks.savings import savings
from benchmarks.techniques import pictures_apart, techniques

MEASURED = {"threads": 1, "torch": "2", "load": 1.25}


@pytest.mark.slow
def test_a_row_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # a row reads its recipe from there
    row = throughput.measure("recipes/demo.yaml", throughput.ROWS["compact, next item everywhere"], steps=1, users=3)
    assert row.keys() == throughput.COLUMNS.keys()
    assert all(value > 0 for value in row.values()) and max(row[share] for share in throughput.SHARES) < 1
    assert row["rank_p50_ms"] <= row["rank_p95_ms"]


@pytest.mark.slow
def test_answers_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", sys.argv)
    speeds = throughput.answers("recipes/demo.yaml", users=33, starts=1)
    assert all(value > 0 for value in speeds.values())
    for size in throughput.TOGETHER:
        assert speeds[f"{size} ranked together: p50 (ms)"] <= speeds[f"{size} ranked together: p95 (ms)"]
    assert {"import (s)", "load (s)", "explain, 8 together: tokens/s", "imagine, 8 together: pictures/s"} < {*speeds}


def test_the_table_by_hand():
    row = dict.fromkeys(throughput.COLUMNS, 2.0) | {
        "loader_share": 0.125,
        "padding": 0.25,
        "of_the_peak": 0.5,
        "tokens_per_second": 1234.56,
    }
    found = {"recipe": "r.yaml", "steps": 3, "users": 5, "rows": {"full": row}} | MEASURED
    lines = throughput.table(found).splitlines()
    assert lines[0] == "r.yaml, 3 steps and 5 shoppers, 1 threads, torch 2, load 1.2."
    assert lines[-1] == "| full | 2.0 | 12 % | 25 % | 2.0 | 1,234.6 | 2.0 | 50 % | 2.0 | 2.0 | 2.0 |"


def test_the_tables_of_savings_and_answers_by_hand():
    found = {"size": "base", "items": 50, "repeats": 7, "ratios": {"a / b": 1.376}} | MEASURED
    lines = throughput.table_of_savings(found).splitlines()
    assert lines[0] == "base, a history of 50 items, median of 7, 1 threads, torch 2, load 1.2."
    assert lines[-1] == "| a / b | 1.38 |"
    found = {"recipe": "r.yaml", "users": 64, "speeds": {"explain: tokens/s": 1234.5}} | MEASURED
    lines = throughput.table_of_answers(found).splitlines()
    assert lines[0] == "r.yaml, 64 shoppers, 1 threads, torch 2, load 1.2."
    assert lines[-1] == "| explain: tokens/s | 1,234.5 |"


def test_what_was_measured_is_drawn(tmp_path):
    of_peer = {"ours": {"seconds": [1.0, 2.0]}, "peer": {"seconds": [4.0, 6.0]}}
    found = {
        "rows": {"full": {"predictions_per_second": 5.0}, "compact": {"predictions_per_second": 500.0}},
        "savings": {"ratios": {"a / b": 1.4}},
        "answers": {"speeds": {"explain: tokens/s": 100.0, "load (s)": 1.0}},
        "peer": {"rows": {"a step": of_peer, "ours alone": {"ours": {"seconds": [1.0]}}}},
    }
    files = throughput.plot(found, tmp_path / "plots")
    assert [file.name for file in files] == [
        f"throughput_{name}.png" for name in ("steps", "savings", "answers", "peer")
    ]
    assert all(Image.open(file).size[0] > 500 for file in files)


@pytest.mark.slow
def test_savings_are_measured():
    ratios = savings("mini", num_items=3, repeats=1)
    assert len(ratios) == 6 and all(ratio > 0 for ratio in ratios.values())


@pytest.mark.slow
def test_each_technique_is_left_out_and_computes_the_same(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    # Two ways that differ are an error.
    times = techniques(num_items=1_100, num_interactions=3_000, repeats=1, batch_sizes=(2, 8))
    assert len(times) == 7 and all(value > 0 for value in times.values())


def test_pictures_apart_by_hand():
    batch = {
        "media_index": torch.tensor([[0, 1, 1, 2], [2, 2, 0, 3]]),
        "vision_features": torch.tensor([[10.0], [20.0], [30.0]]),
    }
    apart = pictures_apart(batch)
    assert apart["media_index"].tolist() == [[0, 1, 1, 2], [3, 3, 0, 4]]
    assert apart["vision_features"].tolist() == [[10.0], [20.0], [20.0], [30.0]]
