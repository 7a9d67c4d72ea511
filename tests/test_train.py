"""train.py as a user runs it: the recipe read, the run done, the mistakes told before any work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hub_server import HubServer
from processes import start
from shop import make_processor, save_demo_shop
from transformers import AutoModel, AutoProcessor, GPT2Config

import train
from modeling_unimp import PersonalizationPipeline
from modeling_unimp.backbones import load_text_model
from modeling_unimp.training import experiment
from modeling_unimp.training.experiment import check_output_folder
from modeling_unimp.training.taming_vqgan import load_image_codec
from processing_unimp import TASK_NAMES, Catalogue

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | settings
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True, text=True, timeout=400, cwd=cwd, env=environment,
    )  # fmt: skip


@pytest.fixture
def hub(tmp_path):
    server = HubServer(tmp_path / "hub", {"hf_ada": {"name": "ada", "orgs": ["shop"]}})
    yield server
    server.close()


def client_of(hub: HubServer, folder: Path, token: str) -> dict[str, str]:
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder)}
    return settings | {"HF_TOKEN": token}


@pytest.mark.slow
def test_the_demo_recipe_from_nothing_to_a_model_that_answers_and_is_published(tmp_path, hub):
    """But for the size of the shop: the made-up one of the recipe has 2,000 shoppers."""
    save_demo_shop(tmp_path / "shop", 240, 400)
    done = run(
        "--config", str(ROOT / "recipes/demo.yaml"), "--output_dir", "unimp", "--max_steps", "3",
        "--items", "shop", "--interactions", "shop",
        "--eval_strategy", "no",
        "--save_strategy", "no", "--load_best_model_at_end", "false", "--max_test_cases", "12",
        "--codec_steps", "4", "--push_to_hub", "true", "--hub_model_id", "shop/mugs", "--hub_private_repo", "true",
        cwd=tmp_path, **client_of(hub, tmp_path / "cache", "hf_ada"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for line in ("recommend (12 cases)", "popularity in query", "choose all", "constant (training mean)", "new users"):
        assert line in done.stderr + done.stdout
    record = json.loads((tmp_path / "unimp/results.json").read_text())
    assert set(record["results"]["test"]) == set(TASK_NAMES)
    assert record["image_codec"]["num_codes"] == 128 and (tmp_path / "unimp/image_codec/codec.json").is_file()
    assert record["results"]["test"]["recommend"]["baselines"].keys() == {"popularity", "random"}
    assert record["split"]["leaks"] and record["recipe"]["data"]["k_core"] == 5
    assert (tmp_path / "unimp/report.html").stat().st_size > 10_000
    model = AutoModel.from_pretrained(tmp_path / "unimp")
    processor = AutoProcessor.from_pretrained(tmp_path / "unimp")
    assert model.config.num_items == len(processor.catalogue) == 240
    assert processor.catalogue.picture(processor.catalogue.item_ids[0]) is not None
    unimp = PersonalizationPipeline(model=model, processor=processor)
    drawn = unimp({"task": "imagine", "history": ["mug-001"], "query": "lamp"})
    assert drawn["picture"].size == (32, 32) and len(drawn["retrieved"]) == 2 and len(drawn["nearest"]) == 10
    assert drawn["wish"].endswith("lamp") and len(drawn["wish"].split()) == 2
    # What unimp-push would have published, in one commit; the Trainer added none of its own.
    assert f"published {hub.url}/shop/mugs" in done.stderr
    assert hub.repo("shop/mugs")["private"] and len(hub.repo("shop/mugs")["commits"]) == 2  # the first is empty
    files = hub.files("shop/mugs")
    assert {"model.safetensors", "README.md", "recipe.yaml", "catalogue.parquet"} <= set(files)
    assert not any("checkpoint" in name or "report" in name for name in files)
    assert "push_to_hub" not in hub.read("shop/mugs", "recipe.yaml").decode()


EACH_RUN = """
import json, os, runpy, sys
for token, *arguments in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("ENDED", json.dumps(end.code))
"""


def test_a_publication_that_cannot_work_is_told_before_any_training(tmp_path, hub):
    """One interpreter, which reads once where the Hub is, makes one run after another."""
    mistakes = [
        ([], "hf_ada", "Add --hub_model_id ORG/NAME"),
        (["--hub_model_id", "mugs"], "hf_ada", "names no owner"),
        (["--hub_model_id", "shop/mugs"], "hf_eve", "does not accept the token"),
        (["--hub_model_id", "shop/mugs", "--hub_strategy", "checkpoint"], "hf_ada", "publishes the finished model"),
    ]
    same = ["--config", str(ROOT / "recipes/demo.yaml"), "--push_to_hub", "true", "--output_dir"]
    runs = [[token, *same, str(tmp_path / f"unimp_{n}"), *more] for n, (more, token, _) in enumerate(mistakes)]
    done = subprocess.run(
        [sys.executable, "-c", EACH_RUN, json.dumps(runs)], capture_output=True, text=True, timeout=400, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | client_of(hub, tmp_path / "cache", "hf_ada"),
    )  # fmt: skip
    ends = [json.loads(line.removeprefix("ENDED")) for line in done.stdout.splitlines() if line.startswith("ENDED")]
    assert len(ends) == len(mistakes) and done.returncode == 0, done.stderr[-3000:]
    assert all(isinstance(end, str) and message in end for end, (_, _, message) in zip(ends, mistakes, strict=True))
    assert "image codec" not in done.stdout + done.stderr
    assert not any(list((tmp_path / f"unimp_{number}").iterdir()) for number in range(len(mistakes)))


RECIPE_OF_A_CODEC = """
items: shop
interactions: shop
tasks: []
image_codec: train
codec_side: 16
codec_grid: 4
codec_codes: 16
codec_width: 8
codec_steps: 5
output_dir: codec
use_cpu: true
"""


EVERY_SECOND = '{"cross_attention_every": 2}'


def train_in(folder, options):
    os.chdir(folder)
    sys.argv = ["train.py", *options]
    train.main()


def test_a_codec_alone(tmp_path):
    items, interactions = train_shop()
    Catalogue.from_items(items).save(tmp_path / "shop")
    Dataset.from_list(interactions).to_parquet(str(tmp_path / "shop" / "interactions.parquet"))
    (tmp_path / "codec.yaml").write_text(RECIPE_OF_A_CODEC)
    process = start(train_in, tmp_path, ["--config", "codec.yaml"], output=tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()[-3000:]
    assert load_image_codec(tmp_path / "codec/image_codec").codes_per_picture == 16
    assert "Picture codec" in (tmp_path / "codec/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rtae", "1e-3"], "learning_rate"),
        (["--items", "nowhere.parquet"], "belong together"),
        (["--items", "nowhere.parquet", "--interactions", "nowhere.parquet"], "nowhere.parquet"),
        (["--split", "by_time"], "validation_from"),
        (
            ["--split", "by_time", "--validation_from", "soon", "--test_from", "2020-09-16"],
            "timestamp 'soon' cannot be read",
        ),
        (["--split", "at_random"], "leave_last_out or by_time"),
        (["--tasks", "buy"], "recommend, search"),
        (["--temperature", "nan"], "temperature is NaN"),
        (["--learning_rate", "nan"], "learning_rate is NaN"),
        (["--task_weights", '{"rate": -1}'], "task_weights: rate: -1: expected a number from 0"),
        (["--task_shares", '{"search": NaN}'], "task_shares: search: nan: expected a number from 0"),
        (["--task_shares", '{"rate": 2}', "--tasks", "recommend"], "task_shares: rate: expected some of recommend"),
        (
            ["--text_model", "nano", "--vision_model", "tiny", "--unimp", EVERY_SECOND],
            "unimp.cross_attention_every=2",
        ),
        (["--max_test_cases", "-3"], "max_test_cases=-3: expected 0 or more"),
        (["--resume_from_checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
        (
            ["--dataloader_drop_last", "true", "--per_device_train_batch_size", "99999"],
            "dataloader_drop_last: there are",
        ),
        (["--query_attribute", "flavour"], "flavour"),
        (["--wish_attributes", "flavour"], "flavour"),
        (["--tasks", "recommend", "imagine"], "set image_codec"),
        (["--tasks", "imagine", "--image_codec", "no/such-codec"], "no/such-codec"),
        (["--attributes", "title", "flavour"], "flavour"),
        (["--text_model", "no/such-model"], "no/such-model"),
        (["--initial_model", "no/such-model"], "initial_model='no/such-model' cannot be read"),
        (["--initial_model", "LM"], "is a gpt2: expected the folder or Hub name of a UniMP"),
        (["--k_core", "1000"], "the shop cannot be split: no interaction of"),
        (["--metric_for_best_model", "recommend_hr@7"], "this cannot be trained: "),
        (["--report_to", "comet_ml"], "this cannot be trained: "),
        (["--optim", "adamw_torch", "--optim_args", "foo"], "optim: adamw_torch, optim_args: foo: "),
        (["--optim", "galore_adamw"], "optim: galore_adamw, optim_args: None: You need to install `galore_torch`"),
        (
            ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"x": 1}'],
            "lr_scheduler_type: cosine, lr_scheduler_kwargs: {'x': 1}: ",
        ),
        (["--torch_compile", "true", "--torch_compile_mode", "odd"], "torch_compile_mode: odd: Unrecognized mode=odd"),
        (["--items", "TABLE", "--interactions", "TABLE"], "the tables cannot be used: "),
    ],
)
def test_mistakes_are_told_before_any_training(tmp_path, monkeypatch, capsys, arguments, message):
    GPT2Config(n_layer=1).save_pretrained(tmp_path / "LM")
    (tmp_path / "table.csv").write_text("name,price\nmug,3\n")
    files = {"LM": str(tmp_path / "LM"), "TABLE": str(tmp_path / "table.csv")}
    arguments = [files.get(each, each) for each in arguments]
    argv = ["train.py", "--output_dir", str(tmp_path / "out"), "--report_to", "none", "--use_cpu", "true", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(experiment, "make_demo_shop", lambda: train_shop())
    with pytest.raises(SystemExit) as error:
        train.main()
    assert message in str(error.value) + capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_pretrained_language_model_of_too_few_layers_is_told_in_words(tmp_path, monkeypatch):
    load_text_model("nano").save_pretrained(tmp_path / "LM")
    make_processor().tokenizer.save_pretrained(tmp_path / "LM")
    argv = ["train.py", "--output_dir", str(tmp_path / "out"), "--report_to", "none", "--use_cpu", "true"]
    argv += ["--text_model", str(tmp_path / "LM"), "--vision_model", "tiny", "--unimp", EVERY_SECOND]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(experiment, "make_demo_shop", lambda: train_shop())
    with pytest.raises(SystemExit, match=r"^unimp: cross_attention_every=2 leaves no gated layer .* of 1 layers"):
        train.main()


def train_shop():
    from processing_unimp import make_demo_shop

    return make_demo_shop(num_items=40, num_shoppers=40)


def test_a_shop_that_sells_nothing_is_told(tmp_path, monkeypatch):
    items, interactions = train_shop()
    argv = ["train.py", "--output_dir", str(tmp_path / "out"), "--report_to", "none", "--use_cpu", "true"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(
        experiment, "make_demo_shop", lambda: ([item | {"retired": True} for item in items], interactions)
    )
    with pytest.raises(SystemExit, match="every item of the table is retired: nothing can be recommended"):
        train.main()


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match="cannot be written"):
        check_output_folder(str(tmp_path / "file" / "unimp"))


def test_a_full_disk_is_told_at_once(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 5 * 2**20})
    monkeypatch.setattr(experiment.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(SystemExit, match="5 MiB free"):
        check_output_folder(str(tmp_path))


@pytest.mark.parametrize(
    "recipe",
    sorted(
        {*ROOT.glob("recipes/**/*.yaml")} - {*ROOT.glob("recipes/accelerate/*"), ROOT / "recipes/experiments.yaml"},
        key=str,
    ),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_every_recipe_is_readable(recipe, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(recipe), "--bf16", "false", "--use_cpu", "true"])
    data_args, model_args, args = train.parse_recipe()
    assert (data_args.tasks or model_args.image_codec) and isinstance(model_args.config_fields, dict)
    assert args.eval_strategy == args.save_strategy
