"""The folder that goes to the Hub: it answers wherever transformers is installed, without this package."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers.dynamic_module_utils import get_relative_import_files

import modeling_unimp
import processing_unimp
from modeling_unimp.hybrid_scores import HYBRID_FILE
from modeling_unimp.imagining import CODEC_FOLDER
from modeling_unimp.manifest import MANIFEST, configs_in, write_manifest
from processing_unimp import Catalogue
from processing_unimp.bounds import short_repr
from processing_unimp.catalogue_file import CATALOGUE_FILE
from processing_unimp.item_terms import TERMS_FILE
from processing_unimp.processing_unimp import HASHED
from processing_unimp.processor_manifest import hash_of, write_hashes

from .cards import write_model_card
from .model_folder import BACKBONES, ModelFolder, inside, is_on_this_machine
from .run_record import RESULTS, public_recipe, recipe_yaml

MODEL_CLASS = "modeling_unimp.UniMPForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_unimp.UniMPConfig",
    "AutoModel": MODEL_CLASS,
    "AutoModelForCausalLM": MODEL_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
    "AutoProcessor": "processing_unimp.UniMPProcessor",
}
CUSTOM_PIPELINES = {
    "personalization": {
        "impl": "pipeline_unimp.PersonalizationPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
        "default": {"model": ["unimp", "main"]},
    }
}
CODE = {
    modeling_unimp: ("configuration_unimp.py", "modeling_unimp.py", "pipeline_unimp.py"),
    processing_unimp: ("processing_unimp.py",),
}
RECIPE, REPORT, CARD = "recipe.yaml", "report.html", "README.md"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
PICTURE_COLUMNS = ("image", "picture_codes")  # the codec decodes codes into pictures


def export_folder(
    model_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    with_pictures: bool = False,
    with_report: bool = False,
    repo_id: str | None = None,
    license: str | None = None,
    dataset_id: str | None = None,
) -> Path:
    """Write the folder that [`push`] uploads.

    Args:
        model_dir (`str` or `Path`): what `train.py` saved.
        output_dir (`str` or `Path`): where to write; must not exist or be empty.
        with_pictures (`bool`, *optional*, defaults to `False`): keep the catalogue's pictures. Without them the model
            reads items by their text, ratings and tokens alone, and `imagine` is refused.
        with_report (`bool`, *optional*, defaults to `False`): take along report.html, which shows what shoppers did.
        repo_id (`str`, *optional*): the name the card calls the model by.
        license, dataset_id (`str`, *optional*): see [`cards.write_model_card`].

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: a folder that cannot be published; the message says what is missing.
    """
    model, folder = ModelFolder.open(model_dir), Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output_dir={str(folder)!r} is not empty: expected a folder that does not exist.")
    # It gets its name only when it is complete; what a killed export left is overwritten.
    unfinished = folder.resolve().with_name(f".{folder.resolve().name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        write_files(model, unfinished, with_pictures, with_report, link=False)
        write_card(model, unfinished, with_pictures, repo_id, license, dataset_id)
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def write_files(model: ModelFolder, folder: Path, with_pictures: bool, with_report: bool, link: bool) -> None:
    """Write everything but the card; with `link`, large files are links to those of the model."""
    if with_report and not with_pictures:
        raise ValueError("report.html shows pictures of the catalogue: --with_report needs --with_pictures.")
    if with_report and not (model.path / REPORT).is_file():
        raise ValueError(f"{str(model.path)!r} holds no {REPORT}; train.py writes it at the end.")
    folder.mkdir(parents=True, exist_ok=True)
    beside = [HYBRID_FILE] if (model.path / HYBRID_FILE).is_file() else []
    for name in [*model.weights, *beside]:
        _copy(inside(model.path, name), folder / name, link)
    if model.config.get("num_codes"):
        for file in sorted((model.path / CODEC_FOLDER).iterdir()):
            if file.suffix in (".json", ".safetensors") and file.name != MANIFEST:
                name = f"{CODEC_FOLDER}/{file.name}"
                _copy(inside(model.path, name), folder / name, link)
    for name in (
        "generation_config.json",
        "preprocessor_config.json",
        TERMS_FILE,
        *TOKENIZER_FILES,
        *[REPORT] * with_report,
    ):
        if (model.path / name).is_file():
            if name.endswith("_config.json"):
                _settings(inside(model.path, name))
            _copy(inside(model.path, name), folder / name)
    for name in ("tokenizer_config.json", "processor_config.json"):
        settings = _without_names_of_this_machine(_settings(inside(model.path, name)))
        if name == "processor_config.json":
            settings["auto_map"] = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        _write_json(folder / name, settings)
    config = _without_names_of_this_machine(model.config)
    _write_json(folder / "config.json", config | {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
    catalogue = inside(model.path, CATALOGUE_FILE)
    columns = pq.read_schema(catalogue).names
    kept = [name for name in columns if with_pictures or name not in PICTURE_COLUMNS]
    if kept == columns:
        _copy(catalogue, folder / CATALOGUE_FILE, link)
    else:
        Catalogue(pq.read_table(catalogue, columns=kept)).save(folder)
    noted = [name for name in [*model.weights, *beside] if name.endswith(".safetensors")]
    write_manifest(folder, [*configs_in(folder), *noted])
    if (codec := folder / CODEC_FOLDER).is_dir():
        write_manifest(codec, sorted(file.name for file in codec.glob("*.safetensors")))
    hashed = [folder / name for name in HASHED if (folder / name).is_file()]
    write_hashes(folder, {file.name: [hash_of(file)] for file in hashed})
    for file in code_files():
        _copy(file, folder / file.name)
    recipe = public_recipe(model.results.get("recipe") or {})
    _write_json(folder / RESULTS, model.results | {"recipe": recipe})
    (folder / RECIPE).write_text(_recipe_file(recipe, model.results.get("versions") or {}), encoding="utf-8")


def write_card(
    model: ModelFolder,
    folder: Path,
    with_pictures: bool,
    repo_id: str | None,
    license: str | None,
    dataset_id: str | None,
) -> None:
    """Write the card, with a section on what the repository does not hold."""
    card = write_model_card(folder, model.path, repo_id, license=license, dataset_id=dataset_id)
    if remarks := model.remarks(with_pictures):
        text, heading, rest = card.read_text(encoding="utf-8").partition("\n## Licence\n")
        missing = "".join(f"- {remark}\n" for remark in remarks)
        card.write_text(f"{text}\n## What is not in this repository\n\n{missing}{heading}{rest}", encoding="utf-8")


def code_files() -> list[Path]:
    """The files of both packages that the entry points need, found as transformers finds them when it loads."""
    files: set[Path] = set()
    for package, names in CODE.items():
        for name in names:
            entry = Path(str(package.__file__)).with_name(name)
            files |= {entry, *map(Path, get_relative_import_files(entry))}
    return sorted(files, key=lambda file: file.name)


def _copy(source: Path, target: Path, link: bool = False) -> None:
    """A copy, or where it is only read and may be many gigabytes, a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError:  # not allowed on every system
            pass
    shutil.copyfile(source, target)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _recipe_file(recipe: dict[str, dict[str, Any]], versions: dict[str, str]) -> str:
    """recipe.yaml: the recipe of the card, with how to use it."""
    numbers = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        "# As this model was trained: accelerate launch train.py --config recipe.yaml\n"
        f"# With {numbers or 'versions that were not written down'}.\n"
        "# Paths on the machine of the training are cut to their last part; without `items`, the made-up shop.\n"
        f"{recipe_yaml(recipe)}\n"
    )


def _settings(file: Path) -> dict[str, Any]:
    """A file of settings; `ValueError` for what nobody could load."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}. Save the model again.") from error
    if not isinstance(read, dict):
        raise ValueError(
            f"{file.name} holds {short_repr(read)}: expected an object of settings. Save the model again."
        )
    return read


def _without_names_of_this_machine(settings: Any) -> Any:
    """A config without the folders that its parts were loaded from; nothing is ever loaded from there again."""
    if not isinstance(settings, dict):
        return settings
    cleaned = {}
    for name, value in settings.items():
        if isinstance(value, str) and name in ("_name_or_path", "name_or_path") and is_on_this_machine(value):
            value = ""
        elif isinstance(value, str) and name in BACKBONES and is_on_this_machine(value):
            value = None
        cleaned[name] = _without_names_of_this_machine(value)
    return cleaned
