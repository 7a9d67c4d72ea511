"""The throughput benchmark runs on the made-up shop, and its table says what was measured."""

import sys

import pytest

from benchmarks import throughput


@pytest.mark.slow
def test_a_row_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)  # a row reads its recipe from there
    row = throughput.measure("recipes/demo.yaml", throughput.ROWS["compact, next item everywhere"], steps=1, users=3)
    assert row.keys() == throughput.COLUMNS.keys()
    assert all(value > 0 for value in row.values()) and max(row["loader_share"], row["padding"]) < 1
    assert row["rank_p50_ms"] <= row["rank_p95_ms"]


def test_the_table_by_hand():
    row = dict.fromkeys(throughput.COLUMNS, 2.0) | {
        "loader_share": 0.125,
        "padding": 0.25,
        "tokens_per_second": 1234.56,
    }
    found = {"recipe": "r.yaml", "steps": 3, "users": 5, "threads": 1, "torch": "2", "import_seconds": 0.25}
    lines = throughput.table(found | {"rows": {"full": row}}).splitlines()
    assert lines[0] == "r.yaml, 3 steps and 5 shoppers, 1 threads, torch 2; import 0.2 s."
    assert lines[-1] == "| full | 2.0 | 12 % | 25 % | 2.0 | 1,234.6 | 2.0 | 2.0 | 2.0 |"


def test_the_table_of_savings_by_hand():
    found = {"size": "base", "items": 50, "repeats": 7, "threads": 1, "torch": "2", "load": [0.5, 1.25]}
    lines = throughput.table_of_savings(found | {"ratios": {"a / b": 1.376}}).splitlines()
    assert lines[0] == "base, a history of 50 items, median of 7, 1 threads, torch 2, load 0.5 to 1.2."
    assert lines[-1] == "| a / b | 1.38 |"


@pytest.mark.slow
def test_savings_are_measured():
    ratios = throughput.savings("mini", num_items=3, repeats=1)
    assert len(ratios) == 6 and all(ratio > 0 for ratio in ratios.values())
