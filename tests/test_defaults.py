"""What a run without a recipe takes from the data."""

import dataclasses
import sys

import numpy as np
import pytest
from shop import make_catalogue, make_histories

from modeling_unimp.training.defaults import fill_from_data, query_attribute_of
from modeling_unimp.training.recipe import DataArguments, ModelArguments, UniMPTrainingArguments, given_on_command_line
from processing_unimp import Catalogue, Histories


def shop_of(num_users, length, num_items=200, **columns):
    items = [{"item_id": str(n)} | {name: made(n) for name, made in columns.items()} for n in range(num_items)]
    catalogue = Catalogue.from_items(items)
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": str(item), "timestamp": time}
        for user in range(num_users)
        for time, item in enumerate(rng.integers(num_items, size=length))
    ]
    return catalogue, Histories.from_interactions(rows, catalogue)


def filled(tmp_path, catalogue, histories, given=(), **values):
    groups = (
        *(
            group(**{each.name: values[each.name] for each in dataclasses.fields(group) if each.name in values})
            for group in (DataArguments, ModelArguments)
        ),
        UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
    )
    return fill_from_data(*groups, {*given, *values}, catalogue, histories)


def test_sizes_follow_from_the_shop(tmp_path):
    data, model, args = filled(tmp_path, *shop_of(600, 8))
    assert (data.history_length, data.history_format, data.windows) == (10, "compact", "whole")
    assert (model.text_model, model.vision_model, args.per_device_train_batch_size) == ("nano", None, 32)
    assert (args.eval_strategy.value, args.eval_steps, args.sampled_items) == ("steps", 0.2, 0)
    data, model, args = filled(tmp_path, *shop_of(60, 70))
    assert (data.history_length, model.text_model, model.config_fields["dropout"]) == (70, "mini", 0.2)
    data, _, args = filled(tmp_path, *shop_of(6_000, 12))
    assert (data.history_length, args.per_device_train_batch_size, args.num_train_epochs) == (12, 64, 20)
    _, _, args = filled(tmp_path, *shop_of(25_000, 3), k_core=0)
    assert (args.per_device_train_batch_size, args.num_train_epochs) == (256, 20)
    _, model, args = filled(tmp_path, *shop_of(20, 30, num_items=9_000), k_core=0)
    assert (args.sampled_items, model.config_fields["dropout"]) == (1024, 0.4)
    assert model.config_fields["item_at_eoc"]


def test_what_is_bought_again_may_be_recommended(tmp_path):
    catalogue = make_catalogue()

    def histories(*taken):
        rows = [{"user_id": user, "item_id": item, "timestamp": n} for user in "uv" for n, item in enumerate(taken)]
        return Histories.from_interactions(rows, catalogue)

    # Of the four that are trained on three follow another; the two held out do not count.
    again, never = histories("m1", "m2", "m1", "s1", "h1", "h2"), histories("m1", "m2", "s1", "s2", "m1", "m2")
    assert again.truncate(np.array([4, 4])).share_again() == pytest.approx(1 / 3)
    for shop, expected in ((again, False), (never, True)):
        assert filled(tmp_path, catalogue, shop, k_core=0)[0].exclude_seen is expected
    assert filled(tmp_path, catalogue, again, k_core=0, exclude_seen=True)[0].exclude_seen is True


def test_tasks_follow_from_what_there_is(tmp_path):
    assert filled(tmp_path, *shop_of(300, 8))[0].tasks == ["recommend", "select"]
    kinds = {"kind": lambda n: f"kind {n % 7}"}
    assert filled(tmp_path, *shop_of(300, 8, **kinds))[0].tasks == ["recommend", "search", "select"]
    catalogue = make_catalogue()
    data = filled(tmp_path, catalogue, make_histories(catalogue), k_core=0)[0]
    assert data.tasks == ["recommend", "rate", "explain"]  # six items are no choice, and too few for queries
    assert set(data.shares) == {"rate"}
    # Texts ask for more than one layer of width 64, and to weigh as much as the next item.
    _, model, args = filled(tmp_path, catalogue, make_histories(catalogue), k_core=0)
    assert (model.text_model, args.task_weights) == ("micro", {"explain": args.next_item_weight})
    _, model, args = filled(tmp_path, catalogue, make_histories(catalogue), k_core=0, tasks=["recommend", "rate"])
    assert (model.text_model, args.task_weights) == ("nano", {})


def test_a_task_that_training_has_nothing_for_is_not_chosen(tmp_path):
    """Of each shopper the last two interactions are for validation and test."""
    catalogue, _ = shop_of(1, 1, num_items=60)
    catalogue.retire([str(number) for number in range(20)])

    def tasks(rated, raters=range(50)):
        rows = [
            {"user_id": f"u{user}", "item_id": str(place), "timestamp": place}
            | (
                {"rating": 4, "explanation": "warm"}
                if place in rated and user in raters
                else {"rating": None, "explanation": None}
            )
            for user in range(200)
            for place in range(20, 28)
        ]
        return filled(tmp_path, catalogue, Histories.from_interactions(rows, catalogue), given=["k_core"], k_core=0)[
            0
        ].tasks

    assert tasks(range(20, 26)) == ["recommend", "rate", "explain"]  # 40 items are left: too few to select from
    assert tasks((26, 27)) == ["recommend"]
    # One shopper of a hundred may be held out; of three there are some.
    assert tasks(range(20, 26), raters=range(2)) == ["recommend"]
    assert tasks(range(20, 26), raters=range(3)) == ["recommend", "rate", "explain"]


def test_parts_of_dicts_that_were_given_stay(tmp_path):
    catalogue, histories = shop_of(300, 8, kind=lambda n: f"kind {n % 7}")
    data, model, _ = filled(
        tmp_path,
        catalogue,
        histories,
        tasks=["recommend", "search"],
        task_shares={"search": 2.0},
        unimp={"dropout": 0.1},
    )
    assert data.shares == {"search": 2.0}
    assert model.config_fields["dropout"] == 0.1 and model.config_fields["item_rows"] == "both"
    data, _, _ = filled(tmp_path, catalogue, histories, tasks=["recommend"])
    assert data.shares == {}


def test_select_is_learnt_where_no_ranking_selects(tmp_path):
    catalogue, histories = shop_of(300, 8, kind=lambda n: f"kind {n % 7}")

    def share_of_select(**given):
        data, _, _ = filled(tmp_path, catalogue, histories, **given)
        return data.shares.get("select", 1.0)

    assert share_of_select() == 0.02
    assert share_of_select(hybrid="none") == 1.0 and share_of_select(tasks=["search", "select"]) == 1.0


def test_a_tower_that_learns_is_looked_at(tmp_path):
    shop = shop_of(300, 8)
    assert filled(tmp_path, *shop, vision_model="tiny")[1].config_fields.get("fusion") is None
    assert filled(tmp_path, *shop, vision_model="some/clip")[1].config_fields["fusion"] == "none"


def test_what_was_given_stays(tmp_path):
    data, model, args = filled(
        tmp_path, *shop_of(300, 8), given=["learning_rate"], history_length=3, text_model="tiny", tasks=["recommend"]
    )
    assert (data.history_length, data.tasks, model.text_model, args.learning_rate) == (3, ["recommend"], "tiny", 2e-4)
    assert args.weight_decay == 0.1


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"eval_strategy": "epoch"}, {"eval_strategy": "epoch", "save_strategy": "epoch"}),
        ({"save_strategy": "epoch"}, {"eval_strategy": "epoch", "save_strategy": "epoch"}),
        ({"save_steps": 100}, {"eval_steps": 100, "save_steps": 100}),
        ({"eval_steps": 50}, {"eval_steps": 50, "save_steps": 50}),
    ],
)
def test_checkpoints_are_saved_when_they_are_evaluated(tmp_path, given, expected):
    data, model = DataArguments(), ModelArguments()
    args = UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, load_best_model_at_end=False, **given)
    found = fill_from_data(data, model, args, set(given), *shop_of(300, 8))[2]
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({}, None),
        ({"title": lambda n: f"title {n}"}, None),  # each item its own
        ({"shop": lambda n: "ours"}, None),  # says nothing
        ({"brand": lambda n: f"b{n % 9}", "category": lambda n: f"c{n % 4}"}, "category"),
        ({"brand": lambda n: f"b{n % 9}", "line": lambda n: f"c{n % 4}"}, "brand"),
        ({"code": lambda n: n % 9, "rare": lambda n: f"r{n % 5}" if n % 2 else None}, "code"),
    ],
)
def test_the_attribute_of_queries(columns, expected):
    assert query_attribute_of(shop_of(1, 2, **columns)[0]) == expected


def test_pictures_that_nobody_reads_are_told(tmp_path, caplog):
    catalogue = make_catalogue()
    filled(tmp_path, catalogue, make_histories(catalogue), k_core=0)
    assert "items have pictures, which are not read: name a pretrained tower" in caplog.text
    caplog.clear()
    filled(tmp_path, catalogue, make_histories(catalogue), k_core=0, vision_model="tiny")
    assert "are not read" not in caplog.text


def test_names_on_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--items", "a", "--learning-rate=3", "--history_form", "full"])
    assert given_on_command_line() == {"items", "learning_rate", "history_format"}
    monkeypatch.setattr(sys, "argv", ["train.py", "--no_exclude_seen", "--no-tell-grounds", "--bf16"])
    assert given_on_command_line() == {"exclude_seen", "tell_grounds", "bf16"}
    monkeypatch.setattr(sys, "argv", ["train.py", "--config=recipe.yaml"])
    assert given_on_command_line() == {"config"}


def test_without_workers_none_stay_alive(tmp_path):
    args = UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_num_workers=0)
    found = fill_from_data(DataArguments(), ModelArguments(), args, {"dataloader_num_workers"}, *shop_of(300, 8))[2]
    assert (found.dataloader_num_workers, found.dataloader_persistent_workers) == (0, False)
