"""What `trust_remote_code` needs: files that the Hub export flattens into one folder, and their few dependencies."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shop import make_model, make_model_processor
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

from modeling_unimp.manifest import write_manifest
from processing_unimp.processor_manifest import hash_of, known_hashes, write_hashes

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("modeling_unimp", "processing_unimp")
ENTRIES = {
    "AutoConfig": ROOT / "modeling_unimp" / "configuration_unimp.py",
    "AutoModel": ROOT / "modeling_unimp" / "modeling_unimp.py",
    "AutoProcessor": ROOT / "processing_unimp" / "processing_unimp.py",
    "pipeline": ROOT / "modeling_unimp" / "pipeline_unimp.py",
}
# What no answer needs: it would be copied into every published repository.
AT_HOME = {
    "collator",
    "demo_shop",
    "evaluation_cases",
    "metrics/pictures",
    "metrics/ranking",
    "metrics/stars",
    "metrics/summary",
    "metrics/texts",
    "publishing",
    "splits",
    "task_mixture",
}
ALLOWED = {"torch", "numpy", "PIL", "transformers", "huggingface_hub", "datasets", "safetensors", "tokenizers"}
ALLOWED |= {"regex"}  # which transformers cannot be imported without


def files_of(entry: Path) -> list[Path]:
    """The entry and all that transformers copies along, found by its own regular expressions."""
    return sorted({entry, *map(Path, get_relative_import_files(entry))})


EXPORTED = sorted({file for entry in ENTRIES.values() for file in files_of(entry)})
each_exported_file = pytest.mark.parametrize("file", EXPORTED, ids=lambda file: file.stem)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_import_is_a_file_beside_the_entry(entry):
    for file in files_of(ENTRIES[entry]):
        assert file.is_file(), f"{file} is imported, but there is no such file"
        assert file.parent == ENTRIES[entry].parent


@each_exported_file
def test_imports_have_the_form_that_is_found(file):
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"^\s*from\s+\.\s+import", source, re.MULTILINE), "`from . import a` is not seen"
    assert not [name for name in get_relative_imports(file) if "." in name], "one dot, no folders"
    assert not re.search(rf"^\s*(from|import)\s+({'|'.join(PACKAGES)})\b", source, re.MULTILINE)


@each_exported_file
def test_only_libraries_that_every_user_has(file):
    unknown = set(get_imports(file)) - ALLOWED - set(sys.stdlib_module_names)
    assert not unknown, f"{file.name} imports {sorted(unknown)}, which the Hub then demands: try: or importlib"


def test_what_only_training_and_evaluation_need_stays_at_home():
    at_home = {ROOT / "processing_unimp" / f"{name}.py" for name in AT_HOME}
    assert all(file.is_file() for file in at_home)
    assert not at_home & set(EXPORTED)


def test_the_names_of_exported_files_are_unique():
    """The export copies both packages into one folder by base name."""
    names = [file.stem for file in EXPORTED]
    assert len(names) == len(set(names))
    assert not set(names) & (ALLOWED | set(sys.stdlib_module_names)), "would shadow a library"


def test_neither_package_sees_the_other():
    """But for the one `__init__` that registers the classes, which is never exported."""
    for package, other in (PACKAGES, PACKAGES[::-1]):
        files = [file for file in (ROOT / package).glob("*.py")]
        seeing = [file.name for file in files if other in get_imports(file)]
        assert seeing == (["__init__.py"] if package == "modeling_unimp" else [])


LOAD = """
import importlib.util, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [folder for folder in sys.path if folder not in ("", {root!r})]
assert not importlib.util.find_spec("modeling_unimp") and not importlib.util.find_spec("processing_unimp")
from transformers import AutoModel, AutoProcessor, pipeline
for auto in (AutoModel, AutoProcessor):
    auto.from_pretrained("unimp", trust_remote_code=True).save_pretrained("again")
pipeline("personalization", model="again", trust_remote_code=True, device="cpu").save_pretrained("third")
answers = []
for folder in ("unimp", "again", "third"):
    unimp = pipeline("personalization", model=folder, trust_remote_code=True, device="cpu")
    for thing in (unimp, unimp.model, unimp.processor):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    answers.append(unimp({{"task": "recommend", "history": ["m1"]}}))
assert answers[0] == answers[1] == answers[2]
print("FOUND", answers[0]["items"][0]["item_id"])
"""


def test_a_folder_with_the_files_answers_and_is_saved_again_without_the_packages(tmp_path):
    folder = tmp_path / "unimp"
    processor = make_model_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in EXPORTED:
        shutil.copy(file, folder / file.name)
    pipelines = {
        "personalization": {
            "impl": "pipeline_unimp.PersonalizationPipeline",
            "pt": ["AutoModel"],
            "type": "multimodal",
            "default": {"model": ["unimp", "main"]},
        }
    }
    model = {
        "AutoConfig": "configuration_unimp.UniMPConfig",
        "AutoModel": "modeling_unimp.UniMPForConditionalGeneration",
    }
    _add(folder / "config.json", {"auto_map": model, "custom_pipelines": pipelines})
    _add(folder / "processor_config.json", {"auto_map": {"AutoProcessor": "processing_unimp.UniMPProcessor"}})
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    write_hashes(folder, {name: [hash_of(folder / name)] for name in known_hashes(folder)})
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )
    assert "FOUND" in done.stdout, done.stderr[-3000:]


def _add(file: Path, values: dict) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
