"""What validation chose, learnt again from all interactions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shop import save_demo_shop
from test_hybrid_fitting import cases_of, split  # noqa: F401  (a fixture)
from transformers import pipeline

import train
from modeling_unimp import UniMPForConditionalGeneration
from modeling_unimp.training import closed_form, linear_models
from modeling_unimp.training.closed_form import closed_form_scores
from modeling_unimp.training.hybrid_fitting import fit_closed_form
from modeling_unimp.training.recipe import DataArguments
from modeling_unimp.training.refit import refit_closed_form, whole_shop
from processing_unimp import Catalogue, Histories, k_core

ROOT = Path(__file__).resolve().parent.parent


def test_all_of_a_shop_is_its_core_and_asks_nothing():
    items = [{"item_id": each} for each in "abcdefghij"]
    rows = [(user, item) for user in "uvwxy" for item in "abcde"] + [("z", item) for item in "fff"]
    events = [{"user_id": user, "item_id": item, "timestamp": time} for time, (user, item) in enumerate(rows)]
    histories = Histories.from_interactions(events, Catalogue.from_items(items[:7]))
    whole = whole_shop(histories, DataArguments(k_core=5))
    assert whole.train.num_interactions == 25 and len(whole.train) == 5
    assert len(whole.validation) == len(whole.test) == 0
    # g was taken by nobody; f was, and is known not to be wanted.
    assert np.flatnonzero(whole.new_items).tolist() == [6]
    assert whole_shop(histories, DataArguments(k_core=0)).train.num_interactions == 28


def test_of_the_same_interactions_the_closed_form_is_the_same(split):  # noqa: F811
    scores = closed_form_scores(split.train, None, "category", True)
    fitted = fit_closed_form(scores, cases_of(split.validation, split.train.catalogue), split.train)
    again = refit_closed_form(fitted, closed_form_scores(split.train, None, "category", True), split.train)
    assert again.digest() == fitted.digest() and fitted.stars is not None


@pytest.mark.parametrize("name", ["MOST_FOR_ALL_INVERSES", "MOST_DENSE_ITEMS"])
def test_more_items_that_were_taken_do_not_change_which_scores_there_are(split, monkeypatch, name):  # noqa: F811
    """A part of a shop has few enough for all linear models, the whole has not."""
    part = closed_form_scores(split.train, None, "category", True)
    fitted = fit_closed_form(part, cases_of(split.validation, split.train.catalogue), split.train)
    monkeypatch.setattr(linear_models if name == "MOST_DENSE_ITEMS" else closed_form, name, 5)
    assert closed_form_scores(split.train, None, "category", True).neighbours.keys() != fitted.neighbours.keys()
    whole = closed_form_scores(split.train, None, "category", True, sources=fitted.neighbours)
    assert refit_closed_form(fitted, whole, split.train).neighbours.keys() == fitted.neighbours.keys()


@pytest.mark.slow
def test_what_is_saved_knows_what_was_held_out_and_the_numbers_are_of_the_model_before(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    save_demo_shop(tmp_path / "shop", 60, 80)

    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--items", "shop", "--interactions", "shop", "--output_dir", "unimp",
         "--use_cpu", "true", "--report_to", "none", "--max_steps", "4", "--eval_steps", "2", "--refit", "true",
         "--tasks", "recommend", "rate", "--max_test_cases", "20"],
        capture_output=True, text=True, timeout=400, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "unimp/results.json").read_text())
    assert "trained again on all of these interactions" in record["split"]["leaks"]
    catalogue = Catalogue.load(tmp_path / "shop")
    counts = k_core(Histories.load(tmp_path / "shop", catalogue), 5).item_counts()
    model = pipeline("personalization", model=str(tmp_path / "unimp"), device="cpu").model
    expected = torch.from_numpy(np.log((counts + 1) / (counts + 1).sum())).float()
    torch.testing.assert_close(model.hybrid_scores.popularity, expected)
    assert model.hybrid_scores.weights["recommend"][0] == record["fit"]["recommend"]["weight"]
    # What was tested is one of the checkpoints, all of which know the training part alone.
    for step in (2, 4):
        checkpoint = load_file(tmp_path / f"unimp/checkpoint-{step}/model.safetensors")
        learnt = [name for name in checkpoint if "item_embeddings" in name and name.endswith("tokens")]
        assert learnt and not any(torch.equal(checkpoint[name], model.state_dict()[name]) for name in learnt)
    assert not list((tmp_path / "unimp/refit").glob("checkpoint-*"))
    assert record["recipe"]["data"]["refit"] and "trained again" in (tmp_path / "unimp/report.html").read_text()


def test_a_run_that_ends_while_it_trains_again_does_not_say_that_it_did(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    save_demo_shop(tmp_path / "shop", 40, 40)
    shop, out = str(tmp_path / "shop"), tmp_path / "unimp"
    argv = ["train.py", "--items", shop, "--interactions", shop, "--output_dir", str(out), "--use_cpu", "true"]
    argv += ["--report_to", "none", "--max_steps", "1", "--hybrid", "none", "--tasks", "recommend", "--refit", "true"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(train, "refit", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.main()
    record = json.loads((out / "results.json").read_text())
    assert not record["recipe"]["data"]["refit"] and "trained again" not in record["split"]["leaks"]
    assert "trained again" not in (out / "report.html").read_text()
    assert UniMPForConditionalGeneration.from_pretrained(out).config.num_items == 40
