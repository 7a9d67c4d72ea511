"""Downloads against a real HTTP server on the loopback: each way a link goes wrong, and a second run."""

import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from picture_server import JPEG, PNG, Shop, running

from recipes.download_images import DownloadArguments, download_images
from recipes.picture_files import find_pictures, hashed_name

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def server() -> Iterator[str]:
    with running() as found:
        yield f"http://127.0.0.1:{found.server_address[1]}"


def arguments(**changes: Any) -> DownloadArguments:
    limits = {"image_timeout": 0.5, "image_retries": 2, "image_backoff": 0.01, "max_image_megabytes": 0.1}
    own = {"download_images": True, "num_download_workers": 8, "private_hosts": ["127.0.0.1"]}
    return DownloadArguments(**(limits | own | changes))


def failures(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "failures.jsonl").read_text().splitlines()
    return {row["item_id"]: row for row in map(json.loads, lines)}


def found(folder: Path, item_id: str) -> Path | None:
    files = [file.path for file in find_pictures(folder, folder) if file.stem == hashed_name(item_id)]
    assert len(files) <= 1
    return files[0] if files else None


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"failures.jsonl"}


def test_good_pictures_get_the_ending_of_their_kind(server: str, tmp_path: Path) -> None:
    names = {"A": "good.jpg", "B": "good.png", "C": "moved", "D": "chunkless", "E": "chunked"}
    done = download_images([(item, f"{server}/{name}") for item, name in names.items()], tmp_path, arguments())
    assert (done.asked, done.downloaded, done.failed, done.present) == (5, 5, 0, 0)
    assert done.bytes == 4 * len(JPEG) + len(PNG)
    assert hashed_name("B") == hashlib.sha256(b"B").hexdigest()
    place = tmp_path / hashed_name("B")[:2] / f"{hashed_name('B')}.png"
    assert place.read_bytes() == PNG and len(files_of(tmp_path)) == 5
    assert failures(tmp_path) == {} == done.failures


def test_ids_may_be_anything(server: str, tmp_path: Path) -> None:
    ids = [
        ".", "..", "../../etc/passwd", "a/b", "a\\b", "a", "A", "CON", "nul\0byte", "half \ud83d", " ", "caf\u00e9",
        "x" * 300, "\u00e9" * 200, "name\n", "~", "*?", "a.part", "%2e", "-rf",
    ]  # fmt: skip
    folder = tmp_path / "images"
    done = download_images([(item_id, f"{server}/good.jpg") for item_id in ids], folder, arguments())
    assert done.downloaded == len(ids) == len(files_of(folder)), "one file an item, also where letter case differs"
    assert all(found(folder, item_id) for item_id in ids)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("name", "kind", "attempts"),
    [
        ("missing", "HTTP 404", 1),
        ("silent", "not done after 0.5 seconds", 3),
        ("dripping", "not done after 0.5 seconds", 3),
        ("truncated", "cut short", 3),
        ("half", "no picture", 1),
        ("large", "more than 100000 bytes", 1),
        ("coded", "a coded file, which was not asked for", 1),
        ("page", "no picture", 1),
        ("empty", "an empty file came", 3),
        ("icon", "no picture", 1),
        ("drawing", "no picture", 1),
        ("moved_to_a_file", "not an http(s) address", 1),
    ],
)
def test_a_dead_link_is_a_missing_picture(server: str, tmp_path: Path, name: str, kind: str, attempts: int) -> None:
    done = download_images([("x", f"{server}/{name}"), ("y", f"{server}/good")], tmp_path, arguments())
    assert (done.downloaded, done.failed, done.failures) == (1, 1, {kind: 1})
    assert done.examples == {kind: f"'x' at '{server}/{name}'"}
    failure = failures(tmp_path)["x"]
    assert failure["reason"].startswith(kind) and failure["url"] == f"{server}/{name}"
    assert failure["attempts"] == attempts == Shop.seen[name]
    assert files_of(tmp_path) == {f"{hashed_name('y')}.jpg"}


def test_failures_are_counted_by_kind(server: str, tmp_path: Path) -> None:
    addresses = [(str(number), f"{server}/missing") for number in range(20)]
    addresses += [("ftp", "ftp://x/y.jpg"), ("half \ud83d", "http://[\ud83d"), ("own", "http://10.0.0.1/x.jpg")]
    done = download_images(addresses, tmp_path, arguments())
    assert done.failures == {
        "HTTP 404": 20,
        "not an http(s) address": 1,
        "unusable address": 1,
        "not a public address": 1,
    }
    assert done.examples.keys() == done.failures.keys() and done.failed == 23 == len(failures(tmp_path))


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    done = download_images([("x", f"{server}/busy_once")], tmp_path, arguments())
    assert done.downloaded == 1 and Shop.seen["busy_once"] == 2


def test_a_second_run_fetches_only_what_is_missing(server: str, tmp_path: Path) -> None:
    addresses = [(str(number), f"{server}/{number}") for number in range(40)]
    assert download_images(addresses[:30] + [("z", f"{server}/missing")], tmp_path, arguments()).downloaded == 30
    cut, gone, link, secret = (found(tmp_path, item_id) for item_id in "3456")
    assert cut and gone and link and secret
    cut.write_bytes(JPEG[: len(JPEG) // 2])  # behind our back
    gone.unlink()
    link.unlink()
    link.symlink_to(secret)  # a good picture, but of another file
    Shop.seen.clear()
    done = download_images(addresses, tmp_path, arguments())
    assert (done.present, done.downloaded, done.failed) == (27, 13, 0)
    assert set(Shop.seen) == {"3", "4", "5", *map(str, range(30, 40))}
    assert len(files_of(tmp_path)) == 40 and not link.is_symlink() and failures(tmp_path) == {}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing_that_passes_for_a_picture(server: str, tmp_path: Path, end: int) -> None:
    addresses = ((str(number), f"{server}/{number}") for number in itertools.count())
    process = FORK.Process(target=download_images, args=(addresses, tmp_path, arguments()))
    process.start()
    while sum(Shop.seen.values()) < 100:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, end)
    process.join()
    assert process.exitcode == (128 + end if end == signal.SIGTERM else -end if end == signal.SIGKILL else 1)
    assert all(path.read_bytes() == JPEG for path in tmp_path.rglob("*.jpg"))
    if end != signal.SIGKILL:
        assert not list(tmp_path.glob(".preparing-*"))
    there = len(list(tmp_path.rglob("*.jpg")))
    Shop.seen.clear()
    done = download_images([(str(number), f"{server}/{number}") for number in range(20)], tmp_path, arguments())
    assert done.present + done.downloaded == 20 and done.present > 0 and sum(Shop.seen.values()) == done.downloaded
    assert len(files_of(tmp_path)) == there + done.downloaded, "what was unfinished is gone"


def test_addresses_are_read_as_they_are_needed(server: str, tmp_path: Path) -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[str, str]]:
        for number in range(10_000):
            taken.append(number)
            if number == 200:
                raise RuntimeError("enough")
            yield str(number), f"{server}/{number}"

    with pytest.raises(RuntimeError, match="enough"):
        download_images(endless(), tmp_path, arguments())
    # When the 200th address was asked for, at most the queue of 32 was unfinished.
    assert len(taken) == 201 and sum(Shop.seen.values()) >= 160


def test_a_full_disk_stops_the_run_in_words(server: str, tmp_path: Path) -> None:
    # No file of this process may grow beyond a kilobyte: what writes it fails as on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(ValueError, match="the disk is full: .*Free some space"):
            download_images([("x", f"{server}/good")], tmp_path, arguments())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_of(tmp_path) == set() and os.listdir(tmp_path) == ["failures.jsonl"]


@pytest.mark.parametrize(
    "changes",
    [{"num_download_workers": 0}, {"image_timeout": -1.0}, {"image_timeout": float("inf")}, {"image_retries": -1},
     {"image_backoff": float("nan")}, {"max_image_megabytes": 0.0}],
)  # fmt: skip
def test_limits_are_checked(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .* Expected"):
        download_images([], tmp_path, arguments(**changes))
