"""A shop as a data set on the Hub: the configurations `items` and `interactions`, which its viewer shows, and a card.

The wording is in dataset_card.md.
"""

import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi, constants, hf_hub_download

from processing_unimp import Catalogue, Histories
from processing_unimp.publishing import push_interactions, push_items

from .cards import NO_LICENCE, as_python, check_repo_id, counted, licence_words
from .untrusted_text import fenced, inline, one_line, table

TEMPLATE = Path(__file__).with_name("dataset_card.md")


def push_dataset(
    repo_id: str,
    catalogue: Catalogue,
    histories: Histories | None = None,
    *,
    public: bool = False,
    license: str | None = None,
    title: str | None = None,
    token: str | None = None,
) -> str:
    """Push a shop as a data set with a viewer: the configurations `items` and `interactions`, and their card.

    Args:
        repo_id (`str`): `ORG/NAME`; made if it does not exist.
        catalogue (`Catalogue`): the items, with their pictures.
        histories (`Histories`, *optional*): the interactions; left out without it.
        public (`bool`, *optional*, defaults to `False`): whether everybody may read it; see
            [`push_interactions`].
        license, title (`str`, *optional*): see [`write_dataset_card`].
        token (`str`, *optional*): of the Hub; by default the one that is logged in.

    Returns:
        `str`: the address of the repository.

    Raises:
        ValueError: `repo_id` is no such name, or interactions would become public without `public=True`.
    """
    check_repo_id(repo_id, needs_owner=True)
    if histories is not None:  # first: it refuses what must not be public
        push_interactions(histories, repo_id, public=public, token=token)
    push_items(catalogue, repo_id, private=not public, token=token)
    with tempfile.TemporaryDirectory() as folder:
        # The card that is there by now names the files of both configurations.
        hf_hub_download(repo_id, "README.md", repo_type="dataset", local_dir=folder, token=token)
        path = write_dataset_card(Path(folder), catalogue, histories, repo_id, license=license, title=title)
        HfApi(token=token).upload_file(
            path_or_fileobj=str(path),
            path_in_repo="README.md",
            repo_id=repo_id,
            repo_type="dataset",
            commit_message="Describe the data set",
        )
    return f"{constants.ENDPOINT}/datasets/{repo_id}"


def write_dataset_card(
    folder: Path,
    catalogue: Catalogue,
    histories: Histories | None = None,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    title: str | None = None,
) -> Path:
    """Write `README.md` of a data set whose configurations are `items` and `interactions`.

    Args:
        folder (`Path`): where to. Of a card that is already there the metadata is kept (files, licence, title) and
            the text written anew; without one the files are `items/train-*` and `interactions/train-*`.
        catalogue (`Catalogue`): the items.
        histories (`Histories`, *optional*): the interactions, when they are in the data set.
        repo_id (`str`, *optional*): the data set repository, for the lines of code.
        license (`str`, *optional*): the Hub's identifier of the licence, which only the owner of the data can give;
            without it the card says that there is none yet.
        title (`str`, *optional*): defaults to the name of the repository.

    Returns:
        `Path`: the card.
    """
    folder = Path(folder)
    if repo_id is not None:
        check_repo_id(repo_id)
    path = folder / "README.md"
    given = DatasetCard.load(path).data.to_dict() if path.is_file() else {}
    title = title or given.pop("pretty_name", None) or (repo_id or folder.resolve().name).split("/")[-1]
    names = ["items"] + ["interactions"] * (histories is not None)
    configs = given.get("configs") or [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]} for name in names
    ]
    if not any(config.get("default") for config in configs):  # what a visitor sees, and load_dataset(repo_id) gives
        configs = [config | {"default": True} if config["config_name"] == "items" else config for config in configs]
    data = DatasetCardData(
        pretty_name=one_line(title),
        license=license or given.get("license") or NO_LICENCE,
        tags=["unimp", "recommendation", "sequential-recommendation", "multimodal"],
        configs=configs,
        **{name: value for name, value in given.items() if name not in ("pretty_name", "license", "tags", "configs")},
    )
    removed = dict(catalogue.removed)
    for reason, count in (histories.removed if histories is not None else {}).items():
        removed[reason] = removed.get(reason, 0) + count
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=inline(title),
        summary=_summary(catalogue, histories),
        counts=table(["what", "how many"], _counts(catalogue, histories)),
        usage=fenced(_usage(repo_id or folder.resolve().name, histories is not None), "python"),
        item_columns=table(["column", "what it is", "filled"], _item_columns(catalogue)),
        has_interactions=histories is not None,
        interaction_columns=table(["column", "what it is", "filled"], _interaction_columns(histories)),
        removed=counted(removed, "Nothing that was known when this card was written."),
        licence=licence_words(data.license, "data set"),
    )
    card.save(path)
    return path


def _summary(catalogue: Catalogue, histories: Histories | None) -> str:
    if histories is None:
        return f"The {len(catalogue):,} items of a shop, for multi-modal recommendation."
    return (
        f"The {len(catalogue):,} items of a shop and {histories.num_interactions:,} interactions of "
        f"{int((histories.lengths > 0).sum()):,} shoppers with them, for multi-modal recommendation."
    )


def _counts(catalogue: Catalogue, histories: Histories | None) -> list[list[str]]:
    pictures = sum(map(catalogue.has_picture, catalogue.item_ids))
    counts = [
        ["items", f"{len(catalogue):,}"],
        ["items with a picture", f"{pictures:,}"],
        ["pictures that are missing or broken", f"{len(catalogue.unreadable_pictures):,}"],
        ["items no longer sold", f"{int((~catalogue.available).sum()):,}"],
    ]
    if histories is None:
        return counts
    lengths = sorted(int(length) for length in histories.lengths if length)
    rated = int((histories.ratings == histories.ratings).sum())  # NaN where there is none
    return [
        *counts,
        ["shoppers", f"{len(lengths):,}"],
        ["interactions", f"{histories.num_interactions:,}"],
        ["interactions of a shopper, median (most)", f"{lengths[len(lengths) // 2]:,} ({lengths[-1]:,})"],
        ["interactions with a rating", f"{rated:,}"],
        ["items without any interaction", f"{int((histories.item_counts() == 0).sum()):,}"],
        ["time", f"{_moment(histories.timestamps.min())} to {_moment(histories.timestamps.max())}"],
    ]


def _moment(timestamp: float) -> str:
    """A date where the number looks like seconds since 1970, else the number: some tables count otherwise."""
    if 1e8 <= timestamp < 1e10:
        return datetime.fromtimestamp(float(timestamp), tz=timezone.utc).strftime("%Y-%m-%d")
    return f"{float(timestamp):.15g}"


def _item_columns(catalogue: Catalogue) -> list[list[str]]:
    rows = [["item_id", "text, unique", "100%"]]
    for name in [*catalogue.attributes, "domain"]:
        values = catalogue.column(name)
        present = [value for value in values if value is not None]
        if name == "domain" and not present:
            continue
        kind = {bool: "true or false", int: "whole number", float: "number", list: "list of text"}
        what = kind.get(type(present[0]), "text") if present else "empty"
        rows.append([inline(name), "text, which part of the shop" if name == "domain" else what, _share(values)])
    if not catalogue.available.all():
        rows.append(["retired", "true or false, no longer sold", "100%"])
    pictures = [catalogue.has_picture(item_id) or None for item_id in catalogue.item_ids]
    return [*rows, ["image", "picture", _share(pictures)]] if any(pictures) else rows


def _interaction_columns(histories: Histories | None) -> list[list[str]]:
    if histories is None:
        return []
    columns = histories.to_dataset()
    what = {
        "user_id": "text",
        "item_id": "text, an item of `items`",
        "timestamp": "number, seconds since 1970 (UTC) where the source had a date",
        "rating": "number, 1 to 5 stars",
        "explanation": "text, why the item suits the shopper or does not",
    }
    shares: dict[str, float] = {
        name: 1 - columns.data.column(name).null_count / len(columns) for name in columns.column_names
    }
    return [[name, what[name], f"{share:.0%}"] for name, share in shares.items()]


def _share(values: Sequence[Any]) -> str:
    return f"{sum(value is not None for value in values) / len(values):.0%}"


def _usage(repo: str, has_interactions: bool) -> str:
    lines = [
        "from datasets import load_dataset",
        "from processing_unimp import Catalogue" + (", Histories" if has_interactions else ""),
        "",
        f'catalogue = Catalogue.from_dataset(load_dataset({as_python(repo)}, "items", split="train"))',
    ]
    if has_interactions:
        interactions = f'load_dataset({as_python(repo)}, "interactions", split="train")'
        lines.append(f"histories = Histories.from_dataset({interactions}, catalogue)")
    return "\n".join(lines)
