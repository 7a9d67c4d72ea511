"""`unimp-push`: a model folder becomes a repository on the Hub, in one commit.

unimp-push ORG/NAME --model_dir unimp --dry_run
unimp-push ORG/NAME --model_dir unimp --private --with_pictures
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from modeling_unimp.imagining import CODEC_FOLDER

from .cards import check_repo_id
from .export import CARD, REPORT, write_card, write_files
from .model_folder import WEIGHTS, WEIGHTS_INDEX, ModelFolder
from .run_record import CASES

logger = logging.getLogger(__name__)

# Files of an earlier push that are deleted in the same commit when this one has them no more.
REPLACED = (WEIGHTS, "model-*-of-*.safetensors", WEIGHTS_INDEX, f"{CODEC_FOLDER}/*", ".eval_results/*", REPORT)
NOT_UPLOADED = {
    "checkpoint-*": "training checkpoint",
    "runs": "log of the training",
    "vision_features": "made from the pictures again when needed",
    "training_args.bin": "a pickle, and made for this machine",
    CASES: "each case by itself, to compare runs in pairs",
    REPORT: "shows what shoppers did; --with_report takes it along",
    CARD: "written anew",
    "interactions.*": "what shoppers did is never uploaded",
    "histories.*": "what shoppers did is never uploaded",
    "recommendations.*": "what shoppers were recommended is never uploaded",
}
RESUME_HINT = "What went up stays there: run the same command again, and only the rest is uploaded."


def check_login(repo_id: str, token: str | None = None) -> None:
    """Check before a long training that [`push`] can work after it; errors are those of `push`."""
    check_repo_id(repo_id, needs_owner=True)
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
    check_repo_id(repo_id, needs_owner=True)
    model = ModelFolder.open(model_dir)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "unimp"
        write_files(model, folder, with_pictures, with_report, link=True)
        write_card(model, folder, with_pictures, repo_id, license, dataset_id)
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
    stale = [name for name in there if name not in files and any(fnmatch(name, pattern) for pattern in REPLACED)]
    operations: list[Any] = [CommitOperationDelete(name) for name in stale]
    operations += [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=commit.oid)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn the Hub's errors into what the user can do about them."""
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
        answer = (error.server_message or str(error)).strip()
        if status == 401:
            raise PermissionError(
                f"the Hub does not accept the token ({answer}). Run `hf auth login` again, or correct HF_TOKEN."
            ) from error
        if status == 403:
            raise PermissionError(
                f"this token may not write to {repo_id} ({answer}). Use a token with write access to "
                f"{repo_id.partition('/')[0]}, or publish under your own name."
            ) from error
        raise ConnectionError(f"the Hub answered {status}: {answer}. {RESUME_HINT}") from error
    except (HTTPError, RuntimeError) as error:
        # huggingface_hub reports a file whose upload failed as a RuntimeError.
        cause = f" {error.__cause__}" if isinstance(error, RuntimeError) else ""
        raise ConnectionError(
            f"no connection to {constants.ENDPOINT}, or a cut one: {error}{cause} {RESUME_HINT}"
        ) from error


def _listing(files: dict[str, Path], model_dir: Path) -> Iterator[str]:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    yield from (f"{_size(size):>10}  {name}" for name, size in sizes.items())
    yield f"{_size(sum(sizes.values())):>10}  in {len(sizes)} files"
    for path in sorted(model_dir.iterdir()):
        if path.name not in {name.partition("/")[0] for name in files} or path.name == CARD:
            why = next(
                (why for name, why in NOT_UPLOADED.items() if fnmatch(path.name, name)), "no part of a UniMP model"
            )
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
        "--dataset", dest="dataset_id", metavar="ORG/NAME", help="data set on the Hub that the model was evaluated on"
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
