"""Publishing to a Hub: one commit, and the same answers wherever it is loaded.

The Hub is `hub_server`. Two fresh Pythons are its clients: one that publishes, and one without this project.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from shop import (
    REQUESTS,
    make_catalogue,
    make_model_processor,
)
from trained_folder import METRICS, answers_here, save
from transformers import AutoModel, AutoProcessor, LlamaConfig, LlamaForCausalLM

from hub_cards import unimp_push
from modeling_unimp import (
    UniMPForConditionalGeneration,
)

ROOT = Path(__file__).resolve().parent.parent
USERS = {"hf_ada": {"name": "ada", "orgs": ["shop"]}, "hf_bob": {"name": "bob", "orgs": []}}

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


GROWN = """
unimp = pipeline("personalization", model=name, device="cpu", **options)
unimp.add_items([{"item_id": "new", "title": "Tin mug", "category": "mug"}])
for folder in ("grown", "grown/again"):
    unimp.save_pretrained(folder)
    unimp = pipeline("personalization", model=folder, device="cpu", **options)
    for thing in (unimp, unimp.model, unimp.processor):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
result = unimp({"task": "recommend", "history": ["m1"]}, allowed=["new"])["items"][0]["item_id"]
"""


def test_without_this_project_a_model_that_grew_is_saved_with_its_code(stranger, published):
    assert stranger.run(GROWN, name=published, options={"trust_remote_code": True}) == "new"


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
