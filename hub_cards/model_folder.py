"""A folder that train.py saved, found complete before anything of it is published."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from modeling_unimp import UniMPConfig, UniMPForConditionalGeneration
from modeling_unimp.backbones import is_unused_vision_part
from modeling_unimp.hybrid_scores import HYBRID_FILE
from modeling_unimp.image_codec import CODEC_WEIGHTS
from modeling_unimp.imagining import CODEC_FOLDER
from modeling_unimp.manifest import check_weights
from processing_unimp import Catalogue
from processing_unimp.bounds import short_repr
from processing_unimp.catalogue import CATALOGUE_FILE
from processing_unimp.processing_unimp import EXACT, HASHED, SETTINGS
from processing_unimp.processor_manifest import check_all

from .run_record import RESULTS, read_json

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model[\w.-]*\.safetensors", re.ASCII)  # the name of a file, and no path
BACKBONES = {"text_model": ("model.language_model.", "lm_head."), "vision_model": ("model.vision_tower.",)}
SHOPPER_COLUMNS = ("user_id", "reviewerID", "customer_id")  # an interactions table, whatever it is called
RESULT_KEYS = ("results", "recipe", "split", "training_cases", "training_minutes", "versions", "machine")
LOCAL_NAME = re.compile(r"[/~.]|[A-Za-z]:[\\/]")  # how the name of a folder begins, and no name on the Hub


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
        config = read_json(inside(path, "config.json"), "a UniMP model")
        if config.get("model_type") != "unimp":
            raise ValueError(
                f"{str(path)!r} holds a model of type {config.get('model_type')!r}. Expected 'unimp': a folder that "
                "train.py saved."
            )
        for name in ("processor_config.json", "tokenizer_config.json", CATALOGUE_FILE):
            if not inside(path, name).is_file():
                raise ValueError(
                    f"{str(path)!r} holds no {name}, so nobody could ask this model. Save the processor beside it: "
                    "processor.save_pretrained(folder)."
                )
        if config.get("num_codes") and not (path / CODEC_FOLDER / "config.json").is_file():
            raise ValueError(
                f"the model in {str(path)!r} answers with pictures, but its {CODEC_FOLDER}/ is missing: set "
                "model.image_codec to the codec it was trained with and save it again."
            )
        results = read_json(
            inside(path, RESULTS),
            "a model that was evaluated: train.py writes it at the end, and the card needs its numbers",
        )
        if lost := [name for name in RESULT_KEYS if name not in results]:
            raise ValueError(
                f"{str(path / RESULTS)!r} has no {', '.join(lost)}. Expected the file that train.py writes."
            )
        folder = cls(path, config, results, _weight_files(path))
        folder._check_catalogue()
        folder.elsewhere = folder._backbones_elsewhere()
        folder._check_hashes()
        return folder

    def _check_hashes(self) -> None:
        """Refuse files that were changed after they were saved."""
        check_weights(self.path)
        check_weights(self.path, HYBRID_FILE.removesuffix(".safetensors"))
        check_weights(self.path, CODEC_WEIGHTS, subfolder=CODEC_FOLDER)
        there = [self.path / name for name in HASHED if (self.path / name).is_file()]
        check_all(*([file for file in there if file.name in names] for names in (EXACT, SETTINGS)))

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
        """Names of the backbones whose weights are loaded from elsewhere; refuses those that only this machine has."""
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
                if is_on_this_machine(backbone):
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
        """What the repository will not hold, and what that means for its users."""
        remarks = [
            f"The weights of `{name}`. It was frozen in training; they are downloaded from there when this model is "
            "loaded."
            for name in self.elsewhere
        ]
        if self.has_pictures and not with_pictures:
            remarks.append(f"The pictures of the catalogue. {self._without_pictures()}")
        return remarks

    def _without_pictures(self) -> str:
        refused = " `imagine` starts from pictures of the catalogue and is refused." * bool(self.config["num_codes"])
        if self.config.get("vision_config") is None:
            return f"This model reads none in a history: its answers are the same.{refused}"
        return (
            "The model was trained and evaluated with them. Without, it reads the items of a history by their text, "
            "ratings and item tokens and does not see how they look: its answers and results are others than those "
            f"that were measured.{refused}"
        )


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        named = read_json(folder / WEIGHTS_INDEX, "an index of weights").get("weight_map")
        if not isinstance(named, dict):
            raise ValueError(f"{str(folder / WEIGHTS_INDEX)!r} has no weight_map. Save the model again.")
        for name in named.values():
            if not isinstance(name, str) or not SHARD.fullmatch(name):
                raise ValueError(
                    f"{str(folder / WEIGHTS_INDEX)!r} names {short_repr(name)}: expected files beside it, called "
                    "model*.safetensors. Save the model again."
                )
        shards = sorted(set(named.values()))
        if lost := [name for name in shards if not (folder / name).is_file()]:
            raise ValueError(f"{WEIGHTS_INDEX} names {', '.join(lost)}, which {str(folder)!r} does not hold.")
        return [WEIGHTS_INDEX, *shards]
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds LoRA adapters of a checkpoint. Expected the merged model, which train.py saves in "
            "its output_dir at the end."
        )
    raise ValueError(f"{str(folder)!r} holds no {WEIGHTS}: save the model with model.save_pretrained(folder).")


def inside(folder: Path, name: str) -> Path:
    """A file of a model folder, which is no link to anywhere else: whatever is read of it may be published.

    Raises:
        ValueError: such a link. In the cache of the Hub, files of a snapshot are links to its blobs.
    """
    file, root = folder / name, folder.resolve()
    found = file.resolve()
    is_blob = root.parent.name == "snapshots" and found.parent == root.parent.parent / "blobs"
    if not (found.is_relative_to(root) or is_blob):
        raise ValueError(
            f"{str(file)!r} is a link that leads out of the folder, and what it leads to would be published. Expected "
            "a file: copy it into the folder, or remove the link."
        )
    return file


def is_on_this_machine(name: str) -> bool:
    """Whether the name of a backbone is that of a folder or file here, not on the Hub."""
    kind, _, rest = name.partition(":") if name.startswith("open_clip:") else ("", "", name)
    if kind:
        if rest.startswith("local-dir:"):
            return True
        rest = "" if rest.startswith("hf-hub:") else rest.partition("/")[2]
    return bool(rest) and (bool(LOCAL_NAME.match(rest)) or Path(rest).exists())
