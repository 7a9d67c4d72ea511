"""The tables of a shop as a dataset repository on the Hub, which its viewer shows; answering needs none of this."""

import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from .catalogue import Catalogue
from .catalogue_file import CATALOGUE_FILE
from .history import Histories
from .tables import read_table


def push_items(catalogue: Catalogue, repo_id: str, **kwargs: Any) -> Any:
    """Pushes the items with their pictures to a dataset repository, as its configuration `items`.

    Args:
        catalogue (`Catalogue`): the items. Codes of pictures are left out: they belong to the codec of one model.
        repo_id (`str`): `ORG/NAME`; made if it does not exist. The interactions of [`push_interactions`] may be in
            it. `load_dataset(repo_id, "items", split="train")` is what [`Catalogue.from_dataset`] takes.
        kwargs (*optional*): go to `Dataset.push_to_hub`, such as `private=True`; by default the repository is
            public.
    """
    kwargs.setdefault("config_name", "items")
    with tempfile.TemporaryDirectory() as folder:
        catalogue.save(folder)
        dataset = Dataset(read_table(Path(folder) / CATALOGUE_FILE))
        if "picture_codes" in dataset.column_names:
            dataset = dataset.remove_columns("picture_codes")
        return dataset.push_to_hub(repo_id, **kwargs)


def push_interactions(histories: Histories, repo_id: str, *, public: bool = False, **kwargs: Any) -> Any:
    """Pushes the interactions to a dataset repository, as its configuration `interactions`: to a private one.

    They say what people did and when, and a few dates and items are enough to tell whose history it is, also without
    a name.

    Args:
        histories (`Histories`): the interactions.
        repo_id (`str`): `ORG/NAME`; made if it does not exist. The items of [`push_items`] may be in it.
            `load_dataset(repo_id, "interactions", split="train")` is what [`Histories.from_dataset`] takes.
        public (`bool`, *optional*, defaults to `False`): whether everybody may read them; only with `True` may the
            repository be public.
        kwargs (*optional*): go to `Dataset.push_to_hub`.

    Raises:
        ValueError: the repository is public, or asked to be, without `public=True`; nothing is uploaded then.
    """
    why = "private=False was asked for" if kwargs.pop("private", None) is False else ""
    if public or not why:
        # Dataset.push_to_hub takes a repository that exists as it is, whatever `private` says.
        api = HfApi(token=kwargs.get("token"))
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True).repo_id
        why = "" if api.repo_info(repo_id, repo_type="dataset").private else "the repository is public"
    if why and not public:
        raise ValueError(
            f"{histories.num_interactions} interactions of {len(histories)} users were not pushed to {repo_id!r}: "
            f"{why}. They say what people did and when, and by that anybody could recognise people. Push them to a "
            "private repository, or pass public=True if these people know and you may publish it."
        )
    kwargs.setdefault("config_name", "interactions")
    return histories.to_dataset().push_to_hub(repo_id, private=not public, **kwargs)
