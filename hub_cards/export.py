"""The one way to publish: a model folder becomes a repository that answers anywhere, in one commit.

unimp-push ORG/NAME --model_dir unimp --dry_run
unimp-push ORG/NAME --model_dir unimp --private --with_pictures
"""

import argparse
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files

import modeling_unimp
import processing_unimp
from modeling_unimp import DataArguments, ModelArguments, UniMPConfig, UniMPForConditionalGeneration
from modeling_unimp.backbones import is_unused_vision_part
from modeling_unimp.image_codec import CODEC_WEIGHTS
from modeling_unimp.imagining import CODEC_FOLDER
from modeling_unimp.manifest import MANIFEST, check_weights, write_manifest
from processing_unimp import Catalogue
from processing_unimp.catalogue_file import CATALOGUE_FILE
from processing_unimp.processing_unimp import TOKENIZER_FILE
from processing_unimp.processor_manifest import check_hash, hash_of, write_hashes

from .cards import write_model_card

logger = logging.getLogger(__name__)

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
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
RESULTS, RECIPE, REPORT, CARD = "results.json", "recipe.yaml", "report.html", "README.md"
BACKBONES = {"text_model": ("model.language_model.", "lm_head."), "vision_model": ("model.vision_tower.",)}
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
PICTURE_COLUMNS = ("image", "picture_codes")  # a codec makes pictures of codes
SHOPPER_COLUMNS = ("user_id", "reviewerID", "customer_id")  # an interactions table, whatever it is called
# Of an earlier push: what this one no longer has is taken out in the same commit.
OURS = (WEIGHTS, "model-*-of-*.safetensors", WEIGHTS_INDEX, f"{CODEC_FOLDER}/*", ".eval_results/*", REPORT)
STAYS = {
    "checkpoint-*": "training checkpoint",
    "runs": "log of the training",
    "vision_features": "made from the pictures again when needed",
    "training_args.bin": "a pickle, and made for this machine",
    REPORT: "shows what shoppers did; --with_report takes it along",
    CARD: "written anew",
    "interactions.*": "what shoppers did is never uploaded",
    "histories.*": "what shoppers did is never uploaded",
    "recommendations.*": "what shoppers were recommended is never uploaded",
}
RESULT_PARTS = ("results", "recipe", "split", "training_cases", "training_minutes", "versions", "machine")
LOCAL = re.compile(r"[/~.]|[A-Za-z]:[\\/]")  # how the name of a folder begins, and no name on the Hub
ABSOLUTE_PATH = re.compile(r"((?:open_clip:)?(?:local-dir:)?)(?:/|~|[A-Za-z]:[\\/])(?:.*[\\/])?([^\\/]*)[\\/]?")
SAME_AGAIN = "What went up stays there: run the same command again, and only the rest is uploaded."


@dataclass
class ModelFolder:
    """A folder that `train.py` left behind, found complete.

    Args:
        path (`Path`)
        config, results (`dict`): its config.json and results.json.
        weights (`list[str]`): names of its weight files, with their index if there are several.
        elsewhere (`list[str]`): backbones that it names and whose weights it does not hold (`save_only_trained`).
    """

    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    weights: list[str]
    elsewhere: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | os.PathLike) -> "ModelFolder":
        """Refuse what could not be published; a `ValueError` says what is missing and where it comes from."""
        path = Path(path)
        if not path.is_dir():
            raise ValueError(f"there is no folder {str(path)!r}. Expected what train.py saved; see --model_dir.")
        config = _read_json(path / "config.json", "a UniMP model")
        if config.get("model_type") != "unimp":
            raise ValueError(
                f"{str(path)!r} holds a model of type {config.get('model_type')!r}. Expected 'unimp': a folder that "
                "train.py saved."
            )
        for name in ("processor_config.json", "tokenizer_config.json", CATALOGUE_FILE):
            if not (path / name).is_file():
                raise ValueError(
                    f"{str(path)!r} holds no {name}, so nobody could ask this model. Save the processor beside it: "
                    "processor.save_pretrained(folder)."
                )
        if config.get("num_codes") and not (path / CODEC_FOLDER / "config.json").is_file():
            raise ValueError(
                f"the model in {str(path)!r} answers with pictures, but its {CODEC_FOLDER}/ is missing: set "
                "model.image_codec to the codec it was trained with and save it again."
            )
        results = _read_json(
            path / RESULTS, "a model that was examined: train.py writes it at the end, and the card needs its numbers"
        )
        if lost := [name for name in RESULT_PARTS if name not in results]:
            raise ValueError(
                f"{str(path / RESULTS)!r} has no {', '.join(lost)}. Expected the file that train.py writes."
            )
        folder = cls(path, config, results, _weight_files(path))
        folder._check_catalogue()
        folder.elsewhere = folder._backbones_elsewhere()
        folder._check_hashes()
        return folder

    def _check_hashes(self) -> None:
        """Refuse what is not what was saved."""
        check_weights(self.path)
        check_weights(self.path, CODEC_WEIGHTS, subfolder=CODEC_FOLDER)
        for name in (CATALOGUE_FILE, TOKENIZER_FILE):
            if (self.path / name).is_file():
                check_hash(self.path / name)

    def _check_catalogue(self) -> None:
        file = self.path / CATALOGUE_FILE
        names = pq.read_schema(file).names
        if shoppers := [name for name in names if name in SHOPPER_COLUMNS]:
            raise ValueError(
                f"{str(file)!r} has the columns {', '.join(shoppers)}: it says what shoppers did, and that is never "
                "uploaded. Build the catalogue from the items table alone, and train again."
            )
        catalogue = Catalogue(pq.read_table(file, columns=["item_id"]))
        expected = (self.config.get("num_items"), self.config.get("catalogue_fingerprint"))
        if len(catalogue) != expected[0] or expected[1] not in (None, catalogue.fingerprint):
            raise ValueError(
                f"{str(file)!r} holds {len(catalogue)} items with the fingerprint {catalogue.fingerprint}; the model "
                f"was made for {expected[0]} with {expected[1]}. Save the catalogue it was trained with beside it."
            )

    def _backbones_elsewhere(self) -> list[str]:
        """Names of backbones that weights must come from; refuses weights that could not be found again."""
        try:
            config = UniMPConfig.from_pretrained(self.path)
        except StrictDataclassError as error:
            raise ValueError(f"{str(self.path / 'config.json')!r}: {error}. Save the model again.") from error
        with torch.device("meta"):
            model: Any = UniMPForConditionalGeneration(config)
        saved: set[str] = set()
        for name in self.weights:
            if name.endswith(".safetensors"):
                try:
                    with safe_open(self.path / name, framework="pt") as file:
                        saved.update(file.keys())
                except SafetensorError as error:
                    raise ValueError(
                        f"cannot read {str(self.path / name)!r}: {error}. Save the model again."
                    ) from error
        missing = set(model.state_dict()) - saved - set(model.all_tied_weights_keys)
        elsewhere = []
        for key, prefixes in BACKBONES.items():
            own = {name for name in missing if name.startswith(prefixes) and ".gated_cross_attention." not in name}
            backbone = self.config.get(key)
            if backbone is None:
                vision = self.config.get("vision_config") or {}
                own = {name for name in own if is_unused_vision_part(name, str(vision.get("model_type")))}
            elif own:
                if _is_on_this_machine(backbone):
                    raise ValueError(
                        f"this model names its {key} {backbone!r} instead of holding it (save_only_trained), and that "
                        "is a folder on this machine, which nobody else has. Train from a Hub name, or with "
                        "save_only_trained: false."
                    )
                elsewhere.append(backbone)
            missing -= own
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise ValueError(
                f"{str(self.path)!r} lacks {len(missing)} weights, such as {some}. Save the whole model again."
            )
        return elsewhere

    @property
    def has_pictures(self) -> bool:
        """Whether its catalogue holds any."""
        table = pq.read_metadata(self.path / CATALOGUE_FILE)
        for group in range(table.num_row_groups):
            for number in range(table.num_columns):
                column = table.row_group(group).column(number)
                missing = column.statistics and column.statistics.null_count
                if column.path_in_schema.startswith("image.") and (missing is None or missing < column.num_values):
                    return True
        return False

    def remarks(self, with_pictures: bool) -> list[str]:
        """What the repository will not hold, and what that means for whoever loads it."""
        said = [
            f"The weights of `{name}`. It was frozen in training; they are downloaded from there when this model is "
            "loaded."
            for name in self.elsewhere
        ]
        if self.has_pictures and not with_pictures:
            said.append(f"The pictures of the catalogue. {self._without_pictures()}")
        return said

    def _without_pictures(self) -> str:
        if self.config.get("vision_config") is None:
            return "This model does not look at any: its answers are the same."
        return (
            "The model was trained and examined with them. Without, it reads the items of a history by their text, "
            "ratings and item tokens and does not see how they look: its answers and results are others than those "
            "that were measured."
            + (" `imagine` starts from pictures of the catalogue and is refused." if self.config["num_codes"] else "")
        )


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
    """Write the folder that [`push`] uploads: it answers wherever transformers is installed, without this package.

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
    # Under its own name only when it is whole; what a killed export left is written over.
    unfinished = folder.resolve().with_name(f".{folder.resolve().name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write(model, unfinished, with_pictures, with_report, link=False)
        _write_card(model, unfinished, with_pictures, repo_id, license, dataset_id)
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def _write(model: ModelFolder, folder: Path, with_pictures: bool, with_report: bool, link: bool) -> None:
    if with_report and not with_pictures:
        raise ValueError("report.html shows pictures of the catalogue: --with_report needs --with_pictures.")
    if with_report and not (model.path / REPORT).is_file():
        raise ValueError(f"{str(model.path)!r} holds no {REPORT}; train.py writes it at the end.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in model.weights:
        _place(model.path / name, folder / name, link)
    if model.config.get("num_codes"):
        for file in sorted((model.path / CODEC_FOLDER).iterdir()):
            if file.suffix in (".json", ".safetensors") and file.name != MANIFEST:
                _place(file, folder / CODEC_FOLDER / file.name, link)
    for name in ("generation_config.json", "preprocessor_config.json", *TOKENIZER_FILES, *[REPORT] * with_report):
        if (model.path / name).is_file():
            _place(model.path / name, folder / name)
    for name in ("tokenizer_config.json", "processor_config.json"):
        settings = _without_names_of_this_machine(json.loads((model.path / name).read_text(encoding="utf-8")))
        if name == "processor_config.json":
            settings["auto_map"] = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        _write_json(folder / name, settings)
    config = _without_names_of_this_machine(model.config)
    _write_json(folder / "config.json", config | {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
    columns = pq.read_schema(model.path / CATALOGUE_FILE).names
    kept = [name for name in columns if with_pictures or name not in PICTURE_COLUMNS]
    if kept == columns:
        _place(model.path / CATALOGUE_FILE, folder / CATALOGUE_FILE, link)
    else:
        Catalogue(pq.read_table(model.path / CATALOGUE_FILE, columns=kept)).save(folder)
    write_manifest(folder, [name for name in model.weights if name.endswith(".safetensors")])
    if (codec := folder / CODEC_FOLDER).is_dir():
        write_manifest(codec, sorted(file.name for file in codec.glob("*.safetensors")))
    hashed = [folder / name for name in (CATALOGUE_FILE, TOKENIZER_FILE) if (folder / name).is_file()]
    write_hashes(folder, {file.name: [hash_of(file)] for file in hashed})
    for file in code_files():
        _place(file, folder / file.name)
    recipe = _public_recipe(model.results.get("recipe") or {})
    _write_json(folder / RESULTS, model.results | {"recipe": recipe})
    (folder / RECIPE).write_text(_recipe_file(recipe, model.results.get("versions") or {}), encoding="utf-8")


def _write_card(
    model: ModelFolder,
    folder: Path,
    with_pictures: bool,
    repo_id: str | None,
    license: str | None,
    dataset_id: str | None,
) -> None:
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


def check_name(repo_id: str) -> None:
    """Refuse a name that is no `ORG/NAME`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{error} Expected ORG/NAME, such as my-shop/unimp-mugs.") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} names no owner. Expected ORG/NAME, such as my-shop/{repo_id}.")


def check_login(repo_id: str, token: str | None = None) -> None:
    """Tell before a long training, not after it, that [`push`] could not work; errors are those of `push`."""
    check_name(repo_id)
    with _hub_errors(repo_id):
        HfApi(token=token).whoami()


def push(
    model_dir: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    dry_run: bool = False,
    with_pictures: bool = False,
    with_report: bool = False,
    license: str | None = None,
    dataset_id: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish a model folder on the Hub, in one commit.

    What is there already is not uploaded again, so after a cut connection the same call goes on where it stopped.
    Never uploaded are checkpoints, logs, and what shoppers did.

    Args:
        model_dir (`str` or `Path`): what `train.py` saved.
        repo_id (`str`): `ORG/NAME`; made if it does not exist.
        private (`bool`, *optional*): for a repository that is made now; by default what the organisation prefers.
            `True` refuses one that is public already.
        revision (`str`, *optional*): branch to commit to, made from main if it does not exist; main by default.
        tag (`str`, *optional*): name for the commit, such as `"v1"`.
        dry_run (`bool`, *optional*, defaults to `False`): log what would go up, with sizes, and ask no server.
        with_pictures, with_report (`bool`, *optional*, default to `False`): see [`export_folder`].
        license, dataset_id (`str`, *optional*): see [`cards.write_model_card`].
        token (`str`, *optional*): by default that of `hf auth login` or `HF_TOKEN`.
        commit_message (`str`, *optional*)

    Returns:
        `str`: address of the repository.

    Raises:
        ValueError: a folder that cannot be published, or a name that the Hub does not take.
        PermissionError: not logged in, or not allowed to write there.
        ConnectionError: the Hub could not be reached, or the connection was cut.
    """
    check_name(repo_id)
    model = ModelFolder.open(model_dir)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "unimp"
        _write(model, folder, with_pictures, with_report, link=True)
        _write_card(model, folder, with_pictures, repo_id, license, dataset_id)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        for remark in model.remarks(with_pictures):
            logger.info(f"Not in the repository: {remark}")
        url = f"{constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")
        if dry_run:
            for line in _listing(files, model.path):
                logger.info(line)
            logger.info(f"dry run: nothing was uploaded. It would go to {url}")
            return url
        with _hub_errors(repo_id):
            _upload(files, HfApi(token=token), repo_id, private, revision, tag, commit_message or _message())
    logger.info(url)
    return url


def _upload(
    files: dict[str, Path],
    api: HfApi,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    tag: str | None,
    commit_message: str,
) -> None:
    api.whoami()
    try:
        exists: Any = api.model_info(repo_id)
    except RepositoryNotFoundError:
        exists = None
        api.create_repo(repo_id, private=private, exist_ok=True)
    if private and exists is not None and not exists.private:
        raise ValueError(
            f"{repo_id} exists and is public, so --private cannot be kept. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    refs = api.list_repo_refs(repo_id)
    tags = [ref.name for ref in refs.tags]
    if tag in tags:
        raise ValueError(f"{repo_id} has a tag {tag!r} already, and a tag does not move. Choose another name.")
    if revision in tags:
        raise ValueError(f"{revision!r} is a tag of {repo_id}, not a branch. Choose another --revision.")
    if revision is not None and revision not in [ref.name for ref in refs.branches]:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    there = api.list_repo_files(repo_id, revision=revision)
    stale = [name for name in there if name not in files and any(fnmatch(name, pattern) for pattern in OURS)]
    operations: list[Any] = [CommitOperationDelete(name) for name in stale]
    operations += [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=commit.oid)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Say what the Hub's errors mean for whoever publishes."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError(
            "not logged in to the Hub. Run `hf auth login` with a token that may write, or set HF_TOKEN."
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = (error.server_message or str(error)).strip()
        if status == 401:
            raise PermissionError(
                f"the Hub does not accept the token ({said}). Run `hf auth login` again, or correct HF_TOKEN."
            ) from error
        if status == 403:
            raise PermissionError(
                f"this token may not write to {repo_id} ({said}). Use a token with write access to "
                f"{repo_id.partition('/')[0]}, or publish under your own name."
            ) from error
        raise ConnectionError(f"the Hub answered {status}: {said}. {SAME_AGAIN}") from error
    except (HTTPError, RuntimeError) as error:
        # huggingface_hub reports a file whose upload failed as a RuntimeError.
        cause = f" {error.__cause__}" if isinstance(error, RuntimeError) else ""
        raise ConnectionError(
            f"no connection to {constants.ENDPOINT}, or a cut one: {error}{cause} {SAME_AGAIN}"
        ) from error


def _listing(files: dict[str, Path], model_dir: Path) -> Iterator[str]:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    yield from (f"{_size(size):>10}  {name}" for name, size in sizes.items())
    yield f"{_size(sum(sizes.values())):>10}  in {len(sizes)} files"
    for path in sorted(model_dir.iterdir()):
        if path.name not in {name.partition("/")[0] for name in files} or path.name == CARD:
            why = next((why for name, why in STAYS.items() if fnmatch(path.name, name)), "no part of a UniMP model")
            yield f"stays here: {path.name}{'/' if path.is_dir() else ''} ({why})"


def _size(count: int) -> str:
    for unit, number in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= number:
            return f"{count / number:.1f} {unit}"
    return f"{count} B"


def _message() -> str:
    try:
        return f"Publish with unimp {version('unimp')}"
    except PackageNotFoundError:  # run from a checkout
        return "Publish with unimp"


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        shards = sorted(set(_read_json(folder / WEIGHTS_INDEX, "an index of weights")["weight_map"].values()))
        if lost := [name for name in shards if not (folder / name).is_file()]:
            raise ValueError(f"{WEIGHTS_INDEX} names {', '.join(lost)}, which {str(folder)!r} does not hold.")
        return [WEIGHTS_INDEX, *shards]
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds LoRA adapters of a checkpoint. Expected the merged model, which train.py saves in "
            "its output_dir at the end."
        )
    raise ValueError(f"{str(folder)!r} holds no {WEIGHTS}: save the model with model.save_pretrained(folder).")


def _place(source: Path, target: Path, link: bool = False) -> None:
    """A copy, or where it is only read and may be many gigabytes, a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError:  # not allowed on every system
            pass
    shutil.copyfile(source, target)


def _read_json(file: Path, expected: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{str(file.parent)!r} holds no {file.name}. Expected {expected}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is not JSON ({error}). Expected {expected}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} holds a {type(content).__name__}. Expected {expected}.")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _public_recipe(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Data, model and training of results.json, without what is only of the machine or the account of the training."""
    return {
        group: {
            name: _without_local_paths(value)
            for name, value in chosen.items()
            if not name.startswith(("hub_", "push_to_hub", "resume_from_checkpoint", "feature_store"))
        }
        for group, chosen in recipe.items()
    }


def _recipe_file(recipe: dict[str, dict[str, Any]], versions: dict[str, str]) -> str:
    """The recipe as train.py reads it; options that were left empty are left out."""
    empty = {
        one.name for group in (DataArguments, ModelArguments) for one in fields(group) if _is_empty_by_default(one)
    }
    options = {
        name: value
        for chosen in recipe.values()
        for name, value in chosen.items()
        if not (name in empty and value in (None, [], {}))
    }
    numbers = ", ".join(f"{name} {number}" for name, number in versions.items())
    head = (
        "# As this model was trained: accelerate launch train.py --config recipe.yaml\n"
        f"# With {numbers or 'versions that were not written down'}.\n"
        "# Paths on the machine of the training are cut to their last part; without `items`, the made-up shop.\n"
    )
    return head + yaml.safe_dump(options, sort_keys=False, width=119)


def _is_empty_by_default(option: Any) -> bool:
    return option.default is None or (option.default_factory is not MISSING and not option.default_factory())


def _is_on_this_machine(name: str) -> bool:
    """Whether the name of a backbone is that of a folder or file here, not on the Hub."""
    kind, _, rest = name.partition(":") if name.startswith("open_clip:") else ("", "", name)
    if kind:
        if rest.startswith("local-dir:"):
            return True
        rest = "" if rest.startswith("hf-hub:") else rest.partition("/")[2]
    return bool(rest) and (bool(LOCAL.match(rest)) or Path(rest).exists())


def _without_local_paths(value: Any) -> Any:
    """The same, absolute paths cut to their last part: they tell of a machine and its user, and help nobody."""
    if isinstance(value, dict):
        return {name: _without_local_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_local_paths(inner) for inner in value]
    match = ABSOLUTE_PATH.fullmatch(value) if isinstance(value, str) else None
    return match[1] + match[2] if match else value


def _without_names_of_this_machine(settings: Any) -> Any:
    """A config without the folders that its parts were loaded from; nothing is ever loaded from there again."""
    if not isinstance(settings, dict):
        return settings
    cleaned = {}
    for name, value in settings.items():
        if isinstance(value, str) and name in ("_name_or_path", "name_or_path") and _is_on_this_machine(value):
            value = ""
        elif isinstance(value, str) and name in BACKBONES and _is_on_this_machine(value):
            value = None
        cleaned[name] = _without_names_of_this_machine(value)
    return cleaned


def main() -> None:
    """`unimp-push`."""
    parser = argparse.ArgumentParser(
        prog="unimp-push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo_id", metavar="ORG/NAME", help="repository on the Hub; made if it does not exist")
    parser.add_argument("--model_dir", default="unimp", help="what train.py saved (default: unimp)")
    parser.add_argument("--private", action="store_true", default=None, help="only you and ORG may see it")
    parser.add_argument("--revision", metavar="BRANCH", help="commit to this branch, made if it does not exist")
    parser.add_argument("--tag", help="give the commit a name, such as v1")
    parser.add_argument("--dry_run", action="store_true", help="list what would go up, with sizes; upload nothing")
    parser.add_argument(
        "--with_pictures",
        action="store_true",
        help="upload the catalogue with its pictures, if you may publish them. Without them items are known by their "
        "attributes: the model answers, but does not see a history's pictures, so its results are others than those "
        "measured, and imagine is refused. What went up once stays in the repository's history",
    )
    parser.add_argument(
        "--with_report", action="store_true", help="upload report.html, which shows what a few shoppers did"
    )
    parser.add_argument("--license", help="what the card says, by the Hub's identifier, such as cc-by-4.0")
    parser.add_argument(
        "--dataset", dest="dataset_id", metavar="ORG/NAME", help="data set on the Hub that the model was examined on"
    )
    parser.add_argument("--message", dest="commit_message", help="commit message")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    try:
        push(**vars(arguments))
    except (ValueError, PermissionError, ConnectionError) as error:
        raise SystemExit(f"unimp-push: {error}") from error


if __name__ == "__main__":
    main()
