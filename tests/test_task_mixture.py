"""Training examples: who, which window, which task; repeatable, and never past the training part."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from shop import make_catalogue, make_histories

from processing_unimp import Catalogue, Histories, TaskMixture, leave_last_out, task_mixture

CATALOGUE = make_catalogue()
HISTORIES = make_histories(CATALOGUE)
ALL = ["recommend", "search", "rate", "explain", "select"]


def mixture(tasks=ALL, **kwargs) -> TaskMixture:
    return TaskMixture(HISTORIES, CATALOGUE, tasks, query_attribute="category", num_candidates=3, **kwargs)


def test_a_row_depends_on_seed_epoch_and_index_alone():
    first, second = mixture(seed=3), mixture(seed=3)
    for epoch in (1, 0, 1):
        first.set_epoch(epoch)
        second.set_epoch(epoch)
        assert [first[i] for i in range(len(first))] == [second[i] for i in reversed(range(len(second)))][::-1]
    first.set_epoch(2)
    epoch_two = [first[i] for i in range(3)]
    first.set_epoch(3)
    assert epoch_two != [first[i] for i in range(3)]


def test_random_windows_reach_every_position():
    drawn = mixture(tasks=["recommend"])
    targets = set()
    for epoch in range(60):
        drawn.set_epoch(epoch)
        targets |= {(len(row["history"]), row["answer"]) for row in (drawn[i] for i in range(3)) if row["history"]}
    expected = {(p, HISTORIES[u][p].item_id) for u in ("ada", "bob", "cyd") for p in range(1, len(HISTORIES[u]))}
    assert targets == expected


def test_all_windows_is_every_position_once():
    rows = mixture(tasks=["recommend"], windows="all")
    assert len(rows) == 3 + 4 + 3
    assert Counter(rows[i]["answer"] for i in range(len(rows))) == Counter(
        event.item_id for user in ("ada", "bob", "cyd") for event in HISTORIES[user][1:]
    )


def test_whole_windows_are_as_long_as_they_can_be():
    for history_length in (1, 2, 9):
        drawn, found = mixture(tasks=["recommend"], windows="whole", history_length=history_length), set()
        for epoch in range(40):
            drawn.set_epoch(epoch)
            for number, user in enumerate(("ada", "bob", "cyd")):
                row = drawn[number]
                if row["history"]:
                    assert len(row["history"]) == min(history_length, len(HISTORIES[user]) - 1)
                    found.add((user, row["answer"]))
        every = {
            (user, event.item_id)
            for user in ("ada", "bob", "cyd")
            for event in HISTORIES[user][min(history_length, len(HISTORIES[user]) - 1) :]
        }
        assert found == every


def test_interactions_of_one_timestamp_come_in_any_order():
    rows = [
        {"user_id": "u", "item_id": name, "timestamp": time}
        for name, time in zip("abcde", (0, 1, 1, 1, 2), strict=True)
    ]
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcdefgh"])
    drawn = TaskMixture(Histories.from_interactions(rows, catalogue), catalogue, ["recommend"], windows="whole")
    orders = set()
    for epoch in range(60):
        drawn.set_epoch(epoch)
        if drawn[0]["history"]:
            orders.add("".join(entry["item_id"] for entry in drawn[0]["history"]) + drawn[0]["answer"])
    assert orders == {f"a{first}{second}{third}e" for first, second, third in itertools.permutations("bcd")}


def test_a_selection_offers_nothing_that_the_shopper_took_long_ago():
    catalogue = Catalogue.from_items([{"item_id": str(number)} for number in range(14)])
    rows = [{"user_id": "u", "item_id": str(number), "timestamp": number} for number in range(10)]
    histories = Histories.from_interactions(rows, catalogue)
    drawn = TaskMixture(histories, catalogue, ["select"], windows="whole", history_length=2, num_candidates=3)
    offered = set()
    for epoch in range(80):
        drawn.set_epoch(epoch)
        row = drawn[0]
        assert len(row["history"]) == 2
        last = int(row["history"][-1]["item_id"])
        wrong = {int(item) for item, is_right in zip(row["candidates"], row["answer"], strict=True) if not is_right}
        assert not wrong & set(range(last + 1))
        offered |= wrong
    assert {10, 11, 12, 13} <= offered


def test_few_rows_have_no_history():
    drawn, without = mixture(tasks=["recommend"], repeats=200), 0
    for index in range(len(drawn)):
        without += not drawn[index]["history"]
    assert 2 <= without <= 30
    rows = mixture(tasks=["explain"], repeats=200)
    assert all(rows[index]["history"] for index in range(len(rows)))


def test_repeats_are_different_windows():
    rows = mixture(tasks=["recommend"], repeats=8)
    assert len(rows) == 24
    assert len({rows[i]["answer"] for i in range(len(rows))}) > 3


def test_temperature_evens_the_tasks():
    rated = make_histories(CATALOGUE)
    rated.ratings[::2] = np.nan
    shares = [
        TaskMixture(rated, CATALOGUE, ["recommend", "rate"], temperature=t).probabilities["rate"] for t in (1, 4, 1e9)
    ]
    assert shares[0] < shares[1] < shares[2] == pytest.approx(0.5)


def test_a_task_of_share_0_is_never_drawn_not_even_in_place_of_another(monkeypatch):
    for shares in ({"recommend": 0}, {"search": 0}):
        drawn = mixture(tasks=["recommend", "search"], shares=shares)
        assert {drawn[index]["task"] for index in range(len(drawn))} == {"recommend", "search"} - set(shares)
    # Most interactions cannot be rated, and after one of them any task will do that is trained.
    monkeypatch.setattr(task_mixture, "MAX_DRAWS_OF_TASK", 0)
    rated = make_histories(CATALOGUE)
    rated.ratings[:] = np.nan
    rated.ratings[rated.starts[:-1] + 1] = 3.0  # of the second interaction of each shopper alone
    for shares, tasks in (({"recommend": 0}, {"rate"}), ({"recommend": 1e-9}, {"rate", "recommend"})):
        rows = TaskMixture(rated, CATALOGUE, ["recommend", "rate"], windows="all", shares=shares)
        assert {rows[index]["task"] for index in range(len(rows))} == tasks


@pytest.mark.parametrize(
    "shares",
    [{"recommend": -1}, {"rate": 1}, {"recommend": 0, "search": 0}, {"search": math.nan}, {"search": math.inf}],
)
def test_shares_that_cannot_be(shares):
    with pytest.raises(ValueError, match="expected numbers from 0 for some of recommend, search, not all 0"):
        mixture(tasks=["recommend", "search"], shares=shares)


def test_unrated_interactions_serve_another_task():
    rated = make_histories(CATALOGUE)
    rated.ratings[::2] = np.nan
    rows = TaskMixture(rated, CATALOGUE, ["rate", "recommend"], windows="all")
    drawn = [rows[i] for i in range(len(rows))]
    assert {row["task"] for row in drawn} == {"rate", "recommend"}
    assert all(row["answer"] is not None for row in drawn)


def test_nothing_of_validation_or_test_is_ever_shown():
    split = leave_last_out(HISTORIES, new_users=0.0)
    rows = TaskMixture(split.train, CATALOGUE, ALL, query_attribute="category", num_candidates=3)
    held_out = {(c.user_id, c.target.item_id) for targets in (split.validation, split.test) for c in targets}
    for epoch in range(20):
        rows.set_epoch(epoch)
        for i in range(len(rows)):
            user = split.train.users[rows.users[i]]
            row = rows[i]
            shown = {entry["item_id"] for entry in row["history"]} | {row["next"]}
            assert not {(user, item) for item in shown} & held_out


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": ["buy"]}, "recommend, search"),
        ({"tasks": []}, "recommend, search"),
        ({"tasks": ["recommend", "rate", "recommend"]}, "each of them once"),
        ({"windows": "some"}, "'random', 'all' or 'whole'"),
        ({"temperature": 0}, "positive"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mixture(**kwargs)


def test_a_task_without_data_is_refused():
    unrated = make_histories(CATALOGUE)
    unrated.ratings[:] = np.nan
    with pytest.raises(ValueError, match="rate needs ratings"):
        TaskMixture(unrated, CATALOGUE, ["recommend", "rate"])


@pytest.mark.parametrize("task", ["rate", "explain"])
@pytest.mark.parametrize("seed", range(4))
def test_a_task_of_which_one_shopper_of_many_has_data_is_found(task, seed):
    """A draw of 500 of 5,000 shoppers misses this one nine times of ten."""
    rows = [
        {"user_id": f"u{user}", "item_id": item, "timestamp": place}
        | ({"rating": 4, "explanation": "warm"} if user == 77 else {"rating": None, "explanation": None})
        for user in range(5000)
        for place, item in enumerate(CATALOGUE.item_ids[:3])
    ]
    found = TaskMixture(Histories.from_interactions(rows, CATALOGUE), CATALOGUE, ["recommend", task], seed=seed)
    assert found.num_cases[task] >= 1 and 0 < found.probabilities[task] < 0.01


@pytest.mark.parametrize("windows", ["random", "all"])
def test_interactions_that_no_task_can_use_are_replaced(windows):
    rated = make_histories(CATALOGUE)
    rated.ratings[:] = np.nan
    rated.ratings[3] = 4.0  # ada's last, and nothing else
    rows = TaskMixture(rated, CATALOGUE, ["rate"], windows=windows, repeats=1)
    assert {(rows[i]["item"], rows[i]["answer"]) for i in range(len(rows))} == {("m2", 4)}
