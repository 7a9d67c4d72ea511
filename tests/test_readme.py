"""The README tells the truth: its snippets run, its flags and paths exist, its file map is the repository's."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import typing
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from shop import make_codec
from torch.distributed.run import get_args_parser
from transformers import HfArgumentParser

from hub_cards import unimp_push
from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration, load_image_processor
from modeling_unimp.backbones import SUPPORTED_TEXT_MODELS
from modeling_unimp.serving import batch_scoring
from modeling_unimp.training.recipe import (
    DataArguments,
    ModelArguments,
    UniMPTrainingArguments,
    parse_recipe,
)
from processing_unimp import Catalogue, UniMPProcessor, make_demo_shop

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_LINES = 250
PACKAGES = {"modeling_unimp", "processing_unimp", "hub_cards", "benchmarks", "recipes"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def commands() -> list[list[str]]:
    """Commands of the bash blocks, and those inside sentences."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    lines += re.findall(r"`((?:accelerate launch train|pip install|python|torchrun|make) ?[^`]*)`", prose)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A folder with an untrained `unimp` of the demo recipe in it, as `make demo` leaves a trained one."""
    folder = tmp_path_factory.mktemp("readme")
    recipe = yaml.safe_load((ROOT / "recipes/demo.yaml").read_text())
    catalogue = Catalogue.from_items(make_demo_shop(num_shoppers=1)[0])
    image_processor = load_image_processor(recipe["vision_model"])
    torch.manual_seed(0)
    codec = make_codec(num_codes=recipe["codec_codes"])
    catalogue.set_picture_codes(np.zeros((len(catalogue), codec.codes_per_picture), dtype=int))
    processor = UniMPProcessor.from_backbones(
        recipe["text_model"],
        image_processor,
        catalogue,
        attributes=recipe["attributes"],
        query_attribute=recipe["query_attribute"],
        num_codes=codec.num_codes,
        wish_attributes=recipe["wish_attributes"],
    )
    model = UniMPForConditionalGeneration.from_backbones(
        text_model=recipe["text_model"],
        vision_model=recipe["vision_model"],
        catalogue=catalogue,
        processor=processor,
        num_codes=codec.num_codes,
        codes_per_picture=codec.codes_per_picture,
        **recipe["unimp"],
    )
    model.image_codec = codec
    PersonalizationPipeline(model=model, processor=processor).save_pretrained(folder / "unimp")
    (folder / "pictures").mkdir()
    Image.new("RGB", (48, 48), "white").save(folder / "pictures" / "0012.jpg")
    return folder


@pytest.fixture(scope="module")
def after_all_snippets(model_folder) -> dict[str, Any]:
    """The names that the README's python blocks leave behind, run in order in one namespace."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(model_folder)
    try:
        for number, block in enumerate(blocks("python"), start=1):
            exec(compile(block, f"README python block {number}", "exec"), names)
    finally:
        os.chdir(before)
    return names


def test_snippets_run(after_all_snippets, model_folder, monkeypatch):
    monkeypatch.chdir(model_folder)  # the snippets' paths are relative
    names = after_all_snippets
    assert len(blocks("python")) >= 3
    assert names["probabilities"].shape == (1, 3) and names["best"]["item_id"] in names["unimp"].processor.catalogue
    assert sum(names["histories"].removed.values()) == 1
    assert names["catalogue"].has_picture("0012")
    assert (model_folder / "my-shop" / "config.json").is_file()


def test_an_item_added_by_the_snippet_is_ranked_and_the_retired_one_is_not(after_all_snippets):
    names = after_all_snippets
    unimp = PersonalizationPipeline(model=names["model"].eval(), processor=names["processor"])
    ranked = unimp({"task": "recommend", "history": ["0012"]}, exclude_seen=False)["items"]
    assert {item["item_id"] for item in ranked} == {"0012", "0200"}


def test_answers_look_as_they_are_shown(after_all_snippets):
    """Same keys and same types all the way down; the values are a trained model's."""

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(each) for key, each in value.items()}
        return [shape(each) for each in value] if isinstance(value, list) else type(value)

    given = {answer["task"]: answer for answer in after_all_snippets["answers"]}
    shown = [ast.literal_eval(line) for block in blocks("text") for line in block.splitlines() if line[0] == "{"]
    assert [answer["task"] for answer in shown] == ["recommend", "rate", "explain", "select"]
    for answer in shown:
        assert shape(answer) == shape(given[answer["task"]])
        for item in answer.get("items", []):
            if "item_id" in item:
                real = after_all_snippets["unimp"].processor.catalogue.item(item["item_id"])
                assert {name: item[name] for name in real} == real
    assert shape(given["search"]) == shape(given["recommend"])


def parsed_by_train(monkeypatch, arguments: list[str]) -> Any:
    # bf16 needs a GPU to be accepted, and wandb to be installed is not ours to ask.
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--bf16", "false", "--use_cpu", "true"])
    monkeypatch.chdir(ROOT)
    return parse_recipe()


def test_commands_are_understood(monkeypatch):
    """Every command's own parser reads it: options that do not exist, or values of a wrong kind, are refused."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    # Python 3.10 has no tomllib; an extra is the only thing that starts a line with a name and a list here.
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M))
    seen = set()
    for command in commands():
        match command:
            case ["make", target]:
                assert target in targets
            case ["pip", "install", "-e", place]:
                assert set(re.findall(r"\w+", place)) <= extras
            case ["accelerate", "launch", *rest]:
                launch = launch_command_parser().parse_args(rest)
                assert launch.training_script == "train.py"
                parsed_by_train(monkeypatch, launch.training_script_args)
                assert not launch.cpu, "accelerate launch --cpu runs one process, whatever is asked"
            case ["torchrun", *rest]:
                launch = get_args_parser().parse_args(rest)
                assert launch.training_script == "train.py"
                parsed_by_train(monkeypatch, launch.training_script_args)
            case ["python", "-m", "benchmarks.baselines", *rest]:
                parsed_by_train(monkeypatch, rest)
            case ["python", "-m", module, *rest]:
                prepare = importlib.import_module(module).prepare
                kind = typing.get_type_hints(prepare)["arguments"]
                (arguments,) = HfArgumentParser(kind).parse_args_into_dataclasses(rest)
                assert arguments.output_dir.startswith("data/")
            case ["hf", "auth", "login"]:
                pass  # huggingface_hub's own
            case ["unimp-push", *_]:
                asked: list[dict[str, Any]] = []
                monkeypatch.setattr(unimp_push, "push", lambda asked=asked, **options: asked.append(options))
                monkeypatch.setattr(sys, "argv", command)
                unimp_push.main()
                assert asked[0]["repo_id"] == "ORG/NAME" and asked[0]["model_dir"] == "unimp"
            case _:
                pytest.fail(f"the README has a command that no test understands: {shlex.join(command)}")
        seen.add(command[0])
    assert seen >= {"make", "pip", "accelerate", "torchrun", "python", "unimp-push"}


def test_a_flag_that_does_not_exist_would_be_noticed(monkeypatch):
    with pytest.raises(SystemExit, match="learning_rate"):
        parsed_by_train(monkeypatch, ["--config", "recipes/demo.yaml", "--learning_rtae", "3"])


def test_flags_named_in_sentences_exist(monkeypatch, capsys):
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    fields = {
        name
        for group in (DataArguments, ModelArguments, UniMPTrainingArguments)
        for name in group.__dataclass_fields__
    }
    flags = {flag for span in re.findall(r"`([^`]+)`", prose) for flag in re.findall(r"--(\w+)", span)}
    for name, command in (("unimp-push", unimp_push.main), ("unimp-recommend", batch_scoring.main)):
        assert f"{name} " in README
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit):
            command()
    commands_know = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert flags and flags - {"config"} <= fields | commands_know
    for name in ("exclude_seen", "held_out_domain", "use_cpu"):
        assert f"`{name}" in prose and name in fields


def test_the_recipe_shown_is_one(monkeypatch, tmp_path):
    (shown,) = blocks("yaml")
    (tmp_path / "shop.yaml").write_text(shown)
    data_args, model_args, args = parsed_by_train(monkeypatch, ["--config", str(tmp_path / "shop.yaml")])
    assert data_args.tasks == ["recommend", "search", "rate"] and model_args.text_model == "small"
    assert args.output_dir == "runs/my-shop"
    UniMPForConditionalGeneration.config_class(text_config={"model_type": "llama"}, **model_args.config_fields)


def test_language_models_named_are_those_supported():
    named = re.search(r"\*\*Language models\*\*: (.*?); others", README)
    assert named is not None
    assert set(re.findall(r"`(\w+)`", named.group(1))) == set(SUPPORTED_TEXT_MODELS)


def test_links_and_paths_exist():
    local = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert local
    configs = [command[command.index("--config") + 1] for command in commands() if "--config" in command]
    folders = re.findall(r"`((?:recipes|tests|docs|benchmarks)/[^`*X]*)`", README)
    for path in {*local, *configs, *folders}:
        assert (ROOT / path).exists(), path


def test_the_map_names_every_folder_of_the_repository():
    (shown,) = [block for block in blocks("text") if block.startswith("train.py")]
    named = {line.split()[0].rstrip("/") for line in shown.splitlines()} - {"train.py"}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = {str(Path(path).parent) for path in listed.stdout.split() if (ROOT / path).is_file()} - {"."}
    assert named <= {str(Path(each)) for each in named if (ROOT / each).is_dir()}
    assert {folder for folder in folders if not any(folder.startswith(f"{each}/") for each in named)} <= named


def test_each_folder_says_what_its_files_are_for():
    for init in (path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")):
        files = {file.stem for file in init.parent.glob("*.py")} - {"__init__"}
        if len(files) < 2:
            continue
        told = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        named = re.findall(r"^ *([\w*]+)(?:\.py)?(?:, ([\w*]+))?   *\w", told, re.MULTILINE)
        forms = {name for pair in named for name in pair if name}
        untold = {name for name in files if not any(fnmatch(name, form) for form in forms)}
        assert not untold, f"{init}: {untold}"
        assert not {form for form in forms if not any(fnmatch(name, form) for name in files)}, init


def test_the_picture_can_be_drawn_again(model_folder):
    spec = importlib.util.spec_from_file_location("make_picture", ROOT / "docs/make_picture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = model_folder / "drawn.png"
    module.main(str(model_folder / "unimp"), str(drawn))
    with Image.open(drawn) as picture, Image.open(ROOT / "docs/history_to_answers.png") as shown:
        assert picture.size == shown.size == (module.WIDTH, module.HEIGHT)


def test_it_is_short_and_plain():
    assert len(README.splitlines()) < MAX_LINES
    assert "shields.io" not in README and "badge" not in README


def test_each_promise_of_the_security_page_has_its_test():
    named = re.findall(r"`(tests/test_\w+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
