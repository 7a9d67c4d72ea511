"""What of a trained folder is published, what never is, and what is refused."""

import json
import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from processes import start
from safetensors.torch import load_file, save_file
from shop import (
    ITEMS,
    REQUESTS,
)
from trained_folder import METRICS, answers_here
from transformers import pipeline

from hub_cards import export, model_folder, unimp_push
from hub_cards.space.app import load_answers
from modeling_unimp import PersonalizationPipeline
from modeling_unimp.manifest import MANIFEST, write_manifest
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Catalogue

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def changed(plain, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(plain, tmp_path / "changed"))


def export_until_killed(plain, folder):
    export.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    export.export_folder(plain, folder)


def test_an_export_that_ends_early_leaves_nothing_that_looks_whole(plain, tmp_path, monkeypatch):
    folder = tmp_path / "unimp"
    killed = start(export_until_killed, plain, folder, output=tmp_path / "said")
    killed.join()
    assert killed.exitcode == -9 and not folder.exists()
    (tmp_path / "said").unlink()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".")
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_model_card", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.export_folder(plain, folder)
    assert not list(tmp_path.iterdir())
    assert export.export_folder(plain, folder).is_dir() and [file.name for file in tmp_path.iterdir()] == ["unimp"]


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "generation_config.json", "tokenizer_config.json", "results.json"]
)
def test_a_link_that_leads_out_of_the_folder_is_not_followed(changed, tmp_path, name):
    (tmp_path / "secret").write_text("{}")
    (changed / name).unlink(missing_ok=True)
    (changed / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=f"{name}.* is a link that leads out of the folder"):
        export.export_folder(changed, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_links_of_a_snapshot_of_the_hub_are_followed(changed, tmp_path):
    """The files of a model that was downloaded lie among the blobs of its repository."""
    blobs, snapshot = (tmp_path / "models--shop--unimp" / part for part in ("blobs", "snapshots/abc"))
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in filter(Path.is_file, changed.iterdir()):
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    exported = export.export_folder(snapshot, tmp_path / "export")
    assert not any(file.is_symlink() for file in exported.rglob("*"))
    (blobs / "config.json").rename(tmp_path / "config.json")
    (blobs / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ValueError, match="config.json' is a link that leads out"):
        export.export_folder(snapshot, tmp_path / "again")


@pytest.mark.parametrize(
    "name", ["../evil", "../model.safetensors", "/etc/passwd", "evil.safetensors", "..\\model.safetensors", 5]
)
def test_weights_are_files_of_the_folder(changed, tmp_path, name):
    (tmp_path / "evil").write_text("x")
    index = {"weight_map": {"a": name}}
    for file in changed.glob("model*.safetensors"):
        file.unlink()
    (changed / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json' names .*: expected files beside it"):
        export.export_folder(changed, tmp_path / "export" / "unimp")


def test_what_is_damaged_is_not_published(changed, tmp_path):
    file = next(changed.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} is not what was written"):
        export.export_folder(changed, tmp_path / "export")


def edit(file: Path, **values: Any) -> None:
    """Change a file as if it had been saved so."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    noted = [name for name in json.loads((file.parent / MANIFEST).read_text()) if (file.parent / name).is_file()]
    write_manifest(file.parent, noted)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


# ------------------------------------------------------------------------------------------------- the folder itself


def test_a_published_folder_holds_all_that_is_needed_and_nothing_else(imagining, exported):
    names = {file.relative_to(exported).as_posix() for file in exported.rglob("*") if file.is_file()}
    code = {file.name for file in export.code_files()}
    shards = {file.name for file in imagining.glob("model-*.safetensors")}
    assert len(shards) > 1 and {"modeling_unimp.py", "pipeline_unimp.py", "item_text.py"} < code
    evaluations = {name for name in names if name.startswith(".eval_results/")}
    assert names - evaluations == code | shards | {
        "model.safetensors.index.json", "config.json", "generation_config.json", "processor_config.json",
        "tokenizer.json", "tokenizer_config.json", "catalogue.parquet", "image_codec/config.json",
        "image_codec/diffusion_pytorch_model.safetensors", "results.json", "recipe.yaml", "README.md",
        "manifest.json", "processor_manifest.json", "image_codec/manifest.json", "item_terms.json",
    }  # fmt: skip
    same = [*shards, "tokenizer.json", "generation_config.json", "catalogue.parquet", "image_codec/config.json"]
    assert all((exported / name).read_bytes() == (imagining / name).read_bytes() for name in same)


def test_every_entry_point_is_named_and_there(exported):
    config = json.loads((exported / "config.json").read_text())
    assert set(config["auto_map"]) == {
        "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor",
    }  # fmt: skip
    personalization = config["custom_pipelines"]["personalization"]
    assert personalization["pt"] == ["AutoModel"]
    for reference in (*config["auto_map"].values(), personalization["impl"]):
        module, name = reference.split(".")
        assert f"class {name}" in (exported / f"{module}.py").read_text()
    processor = json.loads((exported / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": config["auto_map"]["AutoProcessor"]}


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
def test_with_the_package_a_published_folder_is_one_like_any_other(imagining, exported, tmp_path, options):
    """The code beside it is the package's own, which runs, also where the folder is saved again."""
    unimp = pipeline("personalization", model=str(exported), device="cpu", **options)
    assert type(unimp) is PersonalizationPipeline
    again = tmp_path / "again"
    unimp.save_pretrained(again)
    config = json.loads((again / "config.json").read_text())
    assert not {"auto_map", "custom_pipelines"} & set(config) and not list(again.glob("*.py"))
    assert answers_here(again, REQUESTS) == answers_here(imagining, REQUESTS)
    assert load_answers(str(exported)).catalogue.item_ids == unimp.processor.catalogue.item_ids


def test_pictures_stay_unless_asked(imagining, exported, tmp_path):
    folder = export.export_folder(imagining, tmp_path / "unimp", with_pictures=False)
    before, after = Catalogue.load(exported), Catalogue.load(folder)
    names = pq.read_schema(folder / "catalogue.parquet").names
    assert "image" not in names and "picture_codes" not in names
    assert before.picture("m1") is not None and after.picture("m1") is None
    assert after.fingerprint == before.fingerprint and after.attributes == before.attributes
    assert [after.item(each) for each in after.item_ids] == [before.item(each) for each in before.item_ids]
    card = (folder / "README.md").read_text()
    assert "- The pictures of the catalogue. " in card and "`imagine` starts from pictures" in card
    assert "What is not in this repository" not in (exported / "README.md").read_text()


def test_without_pictures_it_answers_from_the_rest(imagining, exported, tmp_path):
    folder = export.export_folder(imagining, tmp_path / "unimp", with_pictures=False)
    blind, seeing = answers_here(folder, REQUESTS[:5]), answers_here(exported, REQUESTS[:5])
    assert [answer["task"] for answer in blind] == [answer["task"] for answer in seeing]
    assert blind[0]["items"] != seeing[0]["items"] and blind[2] != seeing[2]
    with pytest.raises(ValueError, match="no item of this catalogue has a picture"):
        answers_here(folder, REQUESTS[5:])


def test_nothing_tells_of_the_machine_it_was_trained_on(exported, imagining):
    for file in (file for file in exported.rglob("*") if file.suffix in (".json", ".yaml", ".md")):
        text = file.read_text()
        assert "/home/ada" not in text and str(imagining.parent) not in text, file.name
    for file in exported.glob("*.py"):
        assert str(ROOT) not in file.read_text()


def test_the_recipe_is_one_that_train_reads(exported, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(exported / "recipe.yaml")])
    data_args, model_args, args = parse_recipe()
    assert (data_args.items, data_args.interactions) == ("items.parquet", "data/shop")
    assert data_args.tasks == list(METRICS) and data_args.attributes == []
    assert model_args.vision_model is None and model_args.feature_store is None
    assert args.use_cpu and args.save_total_limit is None
    assert json.loads((exported / "results.json").read_text())["recipe"]["data"]["items"] == "items.parquet"
    (shown,) = re.findall("```yaml\n(.*?)```", (exported / "README.md").read_text(), re.S)
    assert (exported / "recipe.yaml").read_text().endswith(shown)


def test_the_report_goes_only_with_the_pictures_it_shows(plain, tmp_path):
    with pytest.raises(ValueError, match="needs --with_pictures"):
        export.export_folder(plain, tmp_path / "one", with_report=True)
    folder = export.export_folder(plain, tmp_path / "two", with_report=True, with_pictures=True)
    assert (folder / "report.html").is_file()


def test_what_was_published_can_be_published_again(exported, tmp_path):
    again = export.export_folder(exported, tmp_path / "unimp", with_pictures=True)
    for file in (file for file in exported.rglob("*") if file.is_file() and file.name != "README.md"):
        assert file.read_bytes() == (again / file.relative_to(exported)).read_bytes(), file.name
    with pytest.raises(ValueError, match="is not empty"):
        export.export_folder(exported, again)


# ---------------------------------------------------------------------------------------------------------- refusals


def lose(name: str):
    return lambda folder: (folder / name).unlink()


def spoil_weights(folder: Path) -> None:
    next(folder.glob("*.safetensors")).write_bytes(b"cut off")


def lose_a_weight(folder: Path) -> None:
    file = next(file for file in folder.glob("*.safetensors") if len(load_file(file)) > 1)
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, metadata={"format": "pt"})


def only_adapters(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "adapter_config.json").write_text("{}")


def of_another_shop(folder: Path) -> None:
    Catalogue.from_items([{"item_id": f"x{number}", "title": "x"} for number in range(6)]).save(folder)


def of_shoppers(folder: Path) -> None:
    Catalogue.from_items([dict(item, user_id="ada") for item in ITEMS]).save(folder)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_settings_that_were_written_by_hand_are_told_and_published(changed, caplog, monkeypatch, name):
    """As they are told and loaded."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    content = json.loads((changed / name).read_text())
    (changed / name).write_text(json.dumps(content | {"noted_by": "hand"}))
    unimp_push.push(changed, "shop/mugs", dry_run=True)
    assert "changed by hand" in caplog.text and name in caplog.text


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no folder"),
        (lose("results.json"), "no results.json. Expected a model that was evaluated: train.py writes it"),
        (lambda folder: (folder / "results.json").write_text("{}"), "has no results, recipe"),
        (lambda folder: (folder / "results.json").write_text("{"), "is not JSON"),
        (lose("config.json"), "no config.json. Expected a UniMP model"),
        (lambda folder: edit(folder / "config.json", model_type="llama"), "type 'llama'. Expected 'unimp'"),
        (lambda folder: edit(folder / "config.json", num_codes=16, codes_per_picture=4), "image_codec/ is missing"),
        (lambda folder: edit(folder / "config.json", num_latents=-1), "num_latents=-1: expected at least 1"),
        (lose("processor_config.json"), "no processor_config.json"),
        (lose("tokenizer_config.json"), "no tokenizer_config.json"),
        (write("processor_config.json", "[]"), "processor_config.json holds []: expected"),
        (write("tokenizer_config.json", "{"), "tokenizer_config.json cannot be read"),
        (write("generation_config.json", "3"), "generation_config.json holds 3: expected"),
        (lose("catalogue.parquet"), "no catalogue.parquet"),
        (of_another_shop, "Save the catalogue it was trained with"),
        (of_shoppers, "has the columns user_id: it says what shoppers did"),
        (lambda folder: [file.unlink() for file in folder.glob("model*")], "holds no model.safetensors"),
        (lose("model-00002-of-00007.safetensors"), "names model-00002-of-00007.safetensors, which"),
        (only_adapters, "LoRA adapters of a checkpoint. Expected the merged model"),
        (spoil_weights, "cannot read"),
        (lose_a_weight, "lacks 1 weights"),
    ],
)
def test_a_folder_that_cannot_be_published_is_refused(changed, spoil, message):
    spoil(changed)
    with pytest.raises(ValueError, match=re.escape(message)):
        unimp_push.push(changed, "shop/mugs", dry_run=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unimp", "names no owner. Expected ORG/NAME, such as my-shop/unimp"),
        ("shop/a/b", "Expected ORG/NAME"),
        ("shop/red mugs", "must use alphanumeric chars"),
        ("shop/mugs--red", "Cannot have -- or .."),
        ("shop/-mugs", "cannot start or end with '-'"),
        ("shop/mugs.git", "cannot end by '.git'"),
        ("shop/m\u00fcgs", "must use alphanumeric chars"),
        ("shop/" + "m" * 97, "maximum length is 96"),
        ("datasets/shop/mugs", "Expected ORG/NAME"),
        ("", "Expected ORG/NAME"),
    ],
)
def test_a_name_that_the_hub_does_not_take_is_refused(plain, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unimp_push.push(plain, name, dry_run=True)


@pytest.mark.parametrize("key", ["text_model", "vision_model"])
def test_weights_that_are_named_but_not_inside_are_told_in_the_card(changed, tmp_path, key):
    """As `save_only_trained` leaves them."""
    leave_out(changed, **{key: "some-org/backbone"})
    folder = export.export_folder(changed, tmp_path / "unimp", with_pictures=True)
    assert "The weights of `some-org/backbone`" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())[key] == "some-org/backbone"
    edit(changed / "config.json", **{key: None})
    with pytest.raises(ValueError, match="lacks .* weights"):
        export.export_folder(changed, tmp_path / "other")


def leave_out(folder: Path, **backbone: str) -> None:
    edit(folder / "config.json", **backbone)
    prefixes = model_folder.BACKBONES[next(iter(backbone))]
    kept = {
        name: tensor
        for name, tensor in weights(folder).items()
        if not name.startswith(prefixes) or "gated_cross_attention" in name
    }
    for file in folder.glob("model*"):
        file.unlink()
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["{here}/llm", "../llm", "open_clip:local-dir:{here}/llm", "open_clip:ViT-B-32/{here}/weights.pt"]
)
def test_a_backbone_on_this_machine_is_not_named(changed, tmp_path, name):
    """Left out, nobody could find its weights; inside, its folder says nothing to anybody."""
    (tmp_path / "weights.pt").write_bytes(b"")
    edit(changed / "config.json", vision_model=name.format(here=tmp_path))
    folder = export.export_folder(changed, tmp_path / "unimp")
    assert json.loads((folder / "config.json").read_text())["vision_model"] is None
    leave_out(changed, vision_model=name.format(here=tmp_path))
    with pytest.raises(ValueError, match="a folder on this machine, which nobody else has"):
        export.export_folder(changed, tmp_path / "other")


# ----------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_lists_what_would_go_up_and_what_stays(imagining, caplog):
    """And asks no server: this process is offline."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with caplog.at_level(logging.INFO):
        url = unimp_push.push(imagining, "shop/mugs", dry_run=True)
    assert url.endswith("/shop/mugs")
    shards = [file.name for file in imagining.glob("model-*.safetensors")]
    for name in (*shards, "image_codec/config.json", "recipe.yaml", "README.md"):
        assert re.search(rf"\d (B|kB|MB)  {name}$", caplog.text, re.M), name
    assert f"{(imagining / 'tokenizer.json').stat().st_size / 1e3:.1f} kB  tokenizer.json" in caplog.text
    for line in (
        "stays here: case_headlines.npz (each case by itself, to compare runs in pairs)",
        "stays here: checkpoint-3/ (training checkpoint)",
        "stays here: interactions.jsonl (what shoppers did is never uploaded)",
        "stays here: report.html (shows what shoppers did; --with_report takes it along)",
        "stays here: runs/ ",
        "stays here: training_args.bin ",
        "stays here: vision_features/ ",
        "Not in the repository: The pictures of the catalogue. ",
        "dry run: nothing was uploaded",
    ):
        assert line in caplog.text
    assert len(re.findall("stays here", caplog.text)) == 7
