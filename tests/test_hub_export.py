"""Publishing: what goes up and what never does, one commit, and the same answers wherever it is loaded.

The Hub is `hub_server`. Two fresh Pythons are its clients: one that publishes, and one without this project.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hub_server import HubServer
from processes import start
from safetensors.torch import load_file, save_file
from shop import (
    ITEMS,
    REQUESTS,
    make_catalogue,
    make_histories,
    make_imagining_model,
    make_model,
    make_model_processor,
)
from transformers import AutoModel, AutoProcessor, LlamaConfig, LlamaForCausalLM

from hub_cards import export, model_folder, unimp_push
from hub_cards.run_record import write_results
from modeling_unimp import (
    DataArguments,
    ModelArguments,
    PersonalizationPipeline,
    UniMPForConditionalGeneration,
    UniMPTrainingArguments,
)
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Catalogue, TaskMixture, leave_last_out

ROOT = Path(__file__).resolve().parent.parent
USERS = {"hf_ada": {"name": "ada", "orgs": ["shop"]}, "hf_bob": {"name": "bob", "orgs": []}}
METRICS = {
    "recommend": {"hr@10": 0.5, "ndcg@10": 0.25},
    "search": {"hr@10": 0.5, "ndcg@10": 0.25},
    "rate": {"mae": 1.0, "rmse": 1.25},
    "explain": {"rougeL": 0.5},
    "select": {"f1": 0.5},
    "imagine": {"gain": 0.01, "similarity": 0.5},
}


# ----------------------------------------------------------------------------------------------------- model folders


def save(folder: Path, model: Any, processor: Any, **model_arguments: Any) -> Path:
    """What train.py leaves behind, and what else lies about in such a folder."""
    model.save_pretrained(folder, max_shard_size="1MB")
    processor.save_pretrained(folder)
    catalogue = processor.catalogue
    split = leave_last_out(make_histories(catalogue))
    data_args = DataArguments(items="/home/ada/shop/items.parquet", interactions="data/shop", tasks=list(METRICS))
    args = UniMPTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", save_total_limit=None)
    mixture = TaskMixture(split.train, catalogue, ["recommend"], seed=0)
    results = {
        task: {
            "cases": 3,
            "skipped": 0,
            "headline": list(metrics)[-1],
            "interval": (0.1, 0.9),
            "model": metrics,
            "baselines": {"chance": {name: 0.0 for name in metrics}},
        }
        for task, metrics in METRICS.items()
    }
    model_args = ModelArguments(vision_model=None, feature_store="/home/ada/features", **model_arguments)
    write_results(folder, {"test": results}, split, mixture, data_args, model_args, args, minutes=1.5)
    (folder / "report.html").write_text("<p>ada bought m1")
    (folder / "interactions.jsonl").write_text('{"user_id": "ada", "item_id": "m1"}')
    for name in ("checkpoint-3", "runs", "vision_features"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"old")
    (folder / "training_args.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture(scope="module")
def imagining(tmp_path_factory) -> Path:
    """All six tasks, weights in several files."""
    return save(tmp_path_factory.mktemp("all") / "unimp", *make_imagining_model(item_rows="both"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    processor = make_model_processor()
    return save(tmp_path_factory.mktemp("plain") / "unimp", make_model(processor), processor)


@pytest.fixture
def changed(plain, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(plain, tmp_path / "changed"))


@pytest.fixture(scope="module")
def exported(imagining, tmp_path_factory) -> Path:
    return export.export_folder(imagining, tmp_path_factory.mktemp("export") / "unimp", with_pictures=True)


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


def test_what_is_damaged_is_not_published(changed, tmp_path):
    file = next(changed.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} is not what was written"):
        export.export_folder(changed, tmp_path / "export")


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def answers_of(unimp: Any, requests: list[dict]) -> list[dict]:
    """As JSON, to the last bit."""
    answers = unimp(requests)
    for answer in answers:
        if "picture" in answer:
            answer["picture"] = hashlib.sha256(answer["picture"].tobytes()).hexdigest()
    return json.loads(json.dumps(answers))


def answers_here(folder: Path, requests: list[dict]) -> list[dict]:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    return answers_of(PersonalizationPipeline(model=model, processor=processor, device="cpu"), requests)


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


# ---------------------------------------------------------------------------------------------------------- with a Hub

ANSWERING = """
import json, os, sys, traceback
sys.stdin, pieces = open(os.devnull), sys.stdin
names = {}
for piece in pieces:
    code, given = json.loads(piece)
    names.update(given, result=None)
    try:
        exec(code, names)
        answer = {"result": names["result"]}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    print("ANSWER", json.dumps(answer), flush=True)
"""
WITHOUT_THIS_PROJECT = f"""
import hashlib, importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [folder for folder in sys.path if folder not in ("", {str(ROOT)!r})]
for name in ("modeling_unimp", "processing_unimp", "hub_cards"):
    assert importlib.util.find_spec(name) is None
from transformers import (
    AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, pipeline
)
"""


class FreshPython:
    """An interpreter of its own that runs pieces of code one after another, because its imports take seconds."""

    def __init__(self, folder: Path, hub: HubServer, first: str, **environment: str):
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder)}
        settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_MODULES_CACHE")}
        self.errors = folder / "stderr.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-c", ANSWERING], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors.open("w"), text=True, cwd=folder, env=kept | settings | environment,
        )  # fmt: skip
        self.unread = 0
        self.send(first)

    def send(self, code: str, **given: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([code, given]) + "\n")
        self.process.stdin.flush()
        self.unread += 1

    def run(self, code: str, **given: Any) -> Any:
        """The `result` that the code leaves behind; what it raises is raised here as RuntimeError."""
        self.send(code, **given)
        while self.unread:
            answer = self.receive()
            if "error" in answer:
                raise RuntimeError(answer["error"], answer["trace"])
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                self.unread -= 1
                return json.loads(line.removeprefix("ANSWER "))
        raise AssertionError(self.errors.read_text()[-3000:])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[HubServer]:
    server = HubServer(tmp_path_factory.mktemp("hub"), USERS)
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def publisher(hub, stranger, tmp_path_factory) -> Iterator[FreshPython]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    python = FreshPython(
        tmp_path_factory.mktemp("publisher"),
        hub,
        "from hub_cards import unimp_push",
        HF_TOKEN="hf_ada",
        PYTHONPATH=path,
    )
    yield python
    python.close()


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory) -> Iterator[FreshPython]:
    """Somebody without this project and without a token."""
    python = FreshPython(tmp_path_factory.mktemp("stranger"), hub, WITHOUT_THIS_PROJECT)
    yield python
    python.close()


def push(publisher: FreshPython, folder: Path, name: str, **options: Any) -> str:
    return publisher.run(
        "result = unimp_push.push(folder, name, **options)", folder=str(folder), name=name, options=options
    )


@pytest.fixture(scope="module")
def published(hub, publisher, imagining) -> str:
    push(publisher, imagining, "shop/mugs", with_pictures=True)
    return "shop/mugs"


def test_one_commit_holds_the_exported_folder(hub, published, exported):
    commits = hub.repo(published)["commits"]
    assert [commit["title"].split(" unimp")[0] for commit in commits.values()] == ["initial commit", "Publish with"]
    files = hub.files(published)
    local = {file.relative_to(exported).as_posix(): file for file in exported.rglob("*") if file.is_file()}
    assert set(files) == set(local)
    for name, file in local.items():
        if name != "README.md":  # which names the repository
            assert hub.read(published, name) == file.read_bytes(), name
    assert files["catalogue.parquet"]["lfs"] and not files["config.json"]["lfs"]
    assert not hub.repo(published)["private"]


ANSWERS = """
unimp = pipeline("personalization", model=name, device="cpu", **options)
for thing in (unimp, unimp.model, unimp.processor):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
answers = unimp(requests)
for answer in answers:
    if "picture" in answer:
        answer["picture"] = hashlib.sha256(answer["picture"].tobytes()).hexdigest()
result = answers
"""


def test_without_this_project_all_tasks_answer_the_same_to_the_last_bit(stranger, published, imagining):
    found = stranger.run(ANSWERS, name=published, requests=REQUESTS, options={"trust_remote_code": True})
    assert found == answers_here(imagining, REQUESTS)
    assert {answer["task"] for answer in found} == set(METRICS)


LOGITS = """
found = []
processor = AutoProcessor.from_pretrained(name, **options)
batch = processor(requests=requests)
batch.pop("task_ids")
for auto_class in classes:
    model = globals()[auto_class].from_pretrained(name, **options).eval()
    logits = model(**batch).logits.detach()
    package = type(model).__module__.split(".")[0]
    found.append([auto_class, package, hashlib.sha256(logits.numpy().tobytes()).hexdigest()])
result = found
"""
CLASSES = ["AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText"]


def logits_here(folder: Path, requests: list[dict] = REQUESTS[:2]) -> str:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    batch = processor(requests=requests)
    batch.pop("task_ids")
    return hashlib.sha256(model(**batch).logits.detach().numpy().tobytes()).hexdigest()


def test_each_auto_class_loads_the_same_model(stranger, published, imagining):
    options = {"trust_remote_code": True}
    found = stranger.run(LOGITS, name=published, requests=REQUESTS[:2], classes=CLASSES, options=options)
    assert found == [[name, "transformers_modules", logits_here(imagining)] for name in CLASSES]


def test_with_this_project_no_flag_is_needed(publisher, plain):
    push(publisher, plain, "shop/plain", with_pictures=True)
    publisher.run("import hashlib, modeling_unimp\nfrom transformers import " + ", ".join([*CLASSES, "AutoProcessor"]))
    classes = ["AutoModel", "AutoModelForImageTextToText"]
    found = publisher.run(LOGITS, name="shop/plain", requests=REQUESTS[:2], classes=classes, options={})
    assert found == [[name, "modeling_unimp", logits_here(plain)] for name in classes]
    for how in ("trust_remote_code=True", "pipeline_class=modeling_unimp.PersonalizationPipeline"):
        code = f"from transformers import pipeline\nresult = pipeline('personalization', model=name, {how})(requests)"
        found = publisher.run(code, name="shop/plain", requests=REQUESTS[:5])
        assert found == answers_here(plain, REQUESTS[:5])


def test_what_is_there_is_not_uploaded_again(hub, publisher, published, imagining):
    uploads, head = dict(hub.uploads), hub.repo(published)["branches"]["main"]
    push(publisher, imagining, published, with_pictures=True)
    assert hub.uploads == uploads and hub.repo(published)["branches"]["main"] == head


def test_after_a_cut_connection_the_same_command_goes_on(hub, publisher, imagining):
    for file in hub.root.glob("files/*"):
        file.unlink()  # a Hub that has never seen these files
    hub.uploads.clear()
    hub.cut_after = 600_000
    with pytest.raises(RuntimeError, match="ConnectionError: .*run the same command again, and only the rest"):
        push(publisher, imagining, "shop/cut", with_pictures=True)
    assert hub.files("shop/cut") == {}
    arrived = dict(hub.uploads)
    hub.mend()
    push(publisher, imagining, "shop/cut", with_pictures=True)
    large = {file["oid"]: file["size"] for file in hub.files("shop/cut").values() if file["lfs"]}
    assert hub.uploads == large, "each byte went up once"
    assert arrived and arrived.keys() < large.keys()


def test_large_files_go_up_in_parts(hub, publisher, plain):
    hub.part_bytes = 300_000
    try:
        push(publisher, plain, "shop/parts", with_pictures=True)
    finally:
        hub.part_bytes = None
    assert any(re.search("PUT /upload/.*/3$", request) for request in hub.requests)
    for file in plain.glob("*.safetensors"):
        assert hub.read("shop/parts", file.name) == file.read_bytes()


def test_a_branch_and_a_tag(hub, publisher, stranger, published, imagining):
    main = hub.repo(published)["branches"]["main"]
    url = push(publisher, imagining, published, revision="blind", tag="v1")
    assert url.endswith(f"/{published}/tree/blind")
    repo = hub.repo(published)
    assert repo["branches"]["main"] == main and repo["branches"]["blind"] == repo["tags"]["v1"] != main
    # What the branch began with and this push does not have is gone; the rest was not uploaded again.
    assert "report.html" not in hub.files(published, "blind")
    count = "from transformers import AutoProcessor\nresult = [AutoProcessor.from_pretrained("
    count += "name, revision=each, trust_remote_code=True).catalogue.has_picture('m1') for each in revisions]"
    assert stranger.run(count, name=published, revisions=["main", "blind", "v1"]) == [True, False, False]
    with pytest.raises(RuntimeError, match="has a tag 'v1' already, and a tag does not move"):
        push(publisher, imagining, published, tag="v1")
    with pytest.raises(RuntimeError, match="'v1' is a tag of shop/mugs, not a branch"):
        push(publisher, imagining, published, revision="v1")


def test_files_of_an_earlier_push_are_taken_out(hub, publisher, plain, tmp_path):
    push(publisher, plain, "shop/twice", with_pictures=True, with_report=True)
    own = "from huggingface_hub import HfApi\nHfApi().upload_file("
    own += "path_or_fileobj=b'mine', path_in_repo='notes/why.safetensors', repo_id='shop/twice')"
    publisher.run(own)
    one = tmp_path / "one"
    model, processor = AutoModel.from_pretrained(plain), AutoProcessor.from_pretrained(plain)
    save(one, model, processor)
    for file in one.glob("model*"):
        file.unlink()
    model.save_pretrained(one)
    push(publisher, one, "shop/twice", with_pictures=True)
    files = hub.files("shop/twice")
    assert [name for name in files if name.startswith("model") and name.endswith("s")] == ["model.safetensors"]
    assert "report.html" not in files and "notes/why.safetensors" in files
    assert len(hub.repo("shop/twice")["commits"]) == 4


def test_a_private_repository(hub, publisher, stranger, imagining):
    push(publisher, imagining, "shop/secret", private=True, with_pictures=True)
    assert hub.repo("shop/secret")["private"]
    with pytest.raises(RuntimeError, match="OSError: shop/secret is not a local folder"):
        stranger.run(ANSWERS, name="shop/secret", requests=REQUESTS, options={"trust_remote_code": True})
    options = {"trust_remote_code": True, "token": "hf_ada"}
    found = stranger.run(ANSWERS, name="shop/secret", requests=REQUESTS, options=options)
    assert found == answers_here(imagining, REQUESTS)


def test_once_loaded_it_loads_without_a_hub(stranger, published, imagining):
    options = {"trust_remote_code": True, "local_files_only": True}
    load = "model, processor = (each.from_pretrained(name, **options) for each in (AutoModel, AutoProcessor))\n"
    load += "result = [model.image_codec.num_codes, len(processor.catalogue), processor.catalogue.has_picture('m1')]"
    assert stranger.run(load, name=published, options=options) == [16, 6, True]


def test_private_is_refused_where_all_can_see(publisher, published, imagining):
    with pytest.raises(RuntimeError, match="exists and is public, so --private cannot be kept"):
        push(publisher, imagining, published, private=True)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "not logged in to the Hub. Run `hf auth login`"),
        ("hf_wrong", "the Hub does not accept the token"),
        ("hf_bob", "may not write to shop/mugs .* Use a token with write access to shop"),
    ],
)
def test_who_may_not_publish_is_told_so(publisher, published, plain, token, message):
    publisher.run("import os; os.environ.pop('HF_TOKEN')")
    try:
        with pytest.raises(RuntimeError, match="PermissionError: .*" + message):
            push(publisher, plain, published, token=token)
    finally:
        publisher.run("os.environ['HF_TOKEN'] = 'hf_ada'")


def test_backbones_that_are_only_named_come_from_the_hub(publisher, stranger, hub, tmp_path):
    """`save_only_trained`: the frozen language model has a repository of its own."""
    processor = make_model_processor()
    torch.manual_seed(1)
    text = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=True, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    text.save_pretrained(tmp_path / "text")
    upload = "from huggingface_hub import HfApi\nHfApi().create_repo(name)\n"
    upload += "HfApi().upload_folder(repo_id=name, folder_path=folder)"
    publisher.run(upload, name="shop/llm", folder=str(tmp_path / "text"))
    model = UniMPForConditionalGeneration.from_backbones(
        str(tmp_path / "text"),
        "tiny",
        processor.catalogue,
        processor,
        num_latents=2,
        resampler_depth=1,
        initial_gate=0.5,
    )
    model.freeze_backbones(train="new", train_vision=True).eval()
    folder = save(tmp_path / "unimp", model, processor, text_model="shop/llm")
    model.config.text_model = "shop/llm"
    for file in folder.glob("model*"):
        file.unlink()
    model.save_pretrained(folder, state_dict=model.trained_state_dict())
    push(publisher, folder, "shop/only-trained", with_pictures=True)
    assert "The weights of `shop/llm`" in hub.read("shop/only-trained", "README.md").decode()
    batch = processor(requests=REQUESTS[:2])
    batch.pop("task_ids")
    expected = hashlib.sha256(model(**batch).logits.detach().numpy().tobytes()).hexdigest()
    options = {"trust_remote_code": True}
    found = stranger.run(
        LOGITS, name="shop/only-trained", requests=REQUESTS[:2], classes=["AutoModel"], options=options
    )
    assert found[0][2] == expected


def test_the_command_line(publisher, plain, hub):
    main = "import sys\nsys.argv = ['unimp-push', *words]\nunimp_push.main()"
    words = [
        "shop/by-command",
        "--model_dir",
        str(plain),
        "--private",
        "--revision",
        "try",
        "--tag",
        "v0",
        "--message",
        "Try",
    ]
    publisher.run(main, words=[*words, "--dry_run"])
    with pytest.raises(Exception, match="Repository not found"):
        hub.repo("shop/by-command")
    publisher.run(main, words=words)
    repo = hub.repo("shop/by-command")
    assert repo["private"] and repo["commits"][repo["tags"]["v0"]]["title"] == "Try"
    with pytest.raises(RuntimeError, match="SystemExit: unimp-push: there is no folder 'nowhere'"):
        publisher.run(main, words=["shop/mugs", "--model_dir", "nowhere"])
    shown = (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as shown:\n    try: unimp_push.main()\n"
    )
    shown = f"sys.argv = ['unimp-push', '--help']\n{shown}    except SystemExit: pass\nresult = shown.getvalue()"
    assert "does not see a history's pictures" in " ".join(publisher.run(shown).split())


def test_offline_it_says_so(plain):
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        unimp_push.push(plain, "shop/mugs", token="hf_ada")


def test_a_login_is_checked_before_a_long_training(publisher):
    publisher.run("unimp_push.check_login('shop/mugs')")
    with pytest.raises(RuntimeError, match="PermissionError: the Hub does not accept the token"):
        publisher.run("unimp_push.check_login('shop/mugs', token='hf_wrong')")


def test_a_catalogue_as_a_dataset(publisher, stranger, hub):
    push = "from processing_unimp.publishing import push_items\nfrom shop import make_catalogue\n"
    publisher.run(push + "push_items(make_catalogue(), 'shop/items')")
    load = "from datasets import load_dataset\nitems = load_dataset('shop/items', split='train')\n"
    load += "pictures = [row['image'] and [*row['image'].getpixel((0, 0))] for row in items]\n"
    load += "result = [items.remove_columns('image').to_list(), pictures]"
    rows, pictures = stranger.run(load)
    catalogue = make_catalogue()
    assert rows == [catalogue.item(item_id) for item_id in catalogue.item_ids]
    shown = [catalogue.picture(item_id) for item_id in catalogue.item_ids]
    assert pictures == [picture and [*picture.getpixel((0, 0))] for picture in shown]
    assert any(file["lfs"] for file in hub.files("shop/items", kind="datasets").values())
