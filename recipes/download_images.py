"""Downloads the pictures of a catalogue: parallel, with limits, retries, and resumable.

A dead link is a missing picture: it is noted in failures.jsonl and the rest goes on. A file has its final name only
once the picture in it has been decoded whole, so what is there is good and a second run fetches only what is missing.
"""

import io
import json
import os
import random
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from PIL import Image
from tqdm import tqdm

from processing_unimp.bounds import short_repr
from processing_unimp.picture import FORMATS, UnreadablePicture, open_picture, read_picture_file
from recipes.picture_files import hashed_name
from recipes.public_http import FetchError, Hosts, fetch, named_hosts
from recipes.work_folder import work_folder

SUFFIXES = {name: f".{name.lower()}" for name in FORMATS} | {"JPEG": ".jpg", "TIFF": ".tif"}
MAX_WAIT = 60.0  # seconds before a retry, however long the server asks for
_LEAST = {
    "num_download_workers": 1,
    "image_timeout": 0.001,
    "image_retries": 0,
    "image_backoff": 0,
    "max_image_megabytes": 0.001,
}
_decoding = threading.BoundedSemaphore(2)  # one picture takes up to 400 MB


@dataclass(kw_only=True)
class DownloadArguments:
    """How pictures are fetched; only with `--download_images`."""

    download_images: bool = field(default=False, metadata={"help": "Fetch an item's picture into output_dir/images."})
    num_download_workers: int = field(default=16, metadata={"help": "Downloads at the same time."})
    image_timeout: float = field(default=20.0, metadata={"help": "Seconds for one attempt at one picture, in all."})
    image_retries: int = field(
        default=3, metadata={"help": "Further attempts after a timeout, a broken connection or a busy server."}
    )
    image_backoff: float = field(
        default=1.0, metadata={"help": "Seconds before the first retry; doubled for each one after it."}
    )
    max_image_megabytes: float = field(default=10.0, metadata={"help": "Larger files are not fetched."})
    private_hosts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Hosts of your own network that pictures may come from, such as images.shop.internal:8080. "
            "Everything else has to have a public address."
        },
    )


@dataclass
class DownloadSummary:
    """How many pictures were asked for, and what became of them; of the failed ones how many of each kind, and one."""

    asked: int = 0
    present: int = 0
    downloaded: int = 0
    failed: int = 0
    bytes: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, result: dict[str, Any]) -> None:
        """Counts one picture; takes from its result what is only of use here."""
        outcome = result.pop("outcome")
        self.asked += 1
        self.bytes += result.pop("bytes", 0)
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "failed":
            kind = result.pop("kind")
            self.failures[kind] = self.failures.get(kind, 0) + 1
            self.examples.setdefault(kind, f"{short_repr(result['item_id'])} at {short_repr(result['url'])}")


def download_images(
    addresses: Iterable[tuple[str, str]], folder: Path, arguments: DownloadArguments, total: int | None = None
) -> DownloadSummary:
    """Fetches one picture an item into `<folder>/<2 hex digits>/<SHA-256 of the item id>.<kind>`.

    Args:
        addresses (`Iterable[tuple[str, str]]`): item id and http(s) address, each item once; read as it is needed.
        folder (`Path`): made if needed. `failures.jsonl` in it lists this run's failures: item_id, url, reason,
            attempts.
        arguments (`DownloadArguments`): limits.
        total (`int`, *optional*): number of addresses, for the progress bar.

    Returns:
        `DownloadSummary`: counts; `present` are good files of an earlier run.

    Raises:
        ValueError: the disk is full, the folder cannot be written, or an argument is unusable; nothing else stops the
            run.
    """
    for name, least in _LEAST.items():
        if not least <= getattr(arguments, name) < 1e6:  # also false for NaN
            raise ValueError(
                f"{name} is {getattr(arguments, name)}. Expected {least} or more, and less than a million."
            )
    done = DownloadSummary()
    with (
        work_folder(folder, is_shared=True) as unfinished,
        (folder / "failures.jsonl").open("w", encoding="utf-8") as failures,
        tqdm(total=total, desc="pictures", unit=" pictures") as bar,
    ):
        download = _Download(folder, unfinished, arguments, named_hosts(arguments.private_hosts))
        with closing(download.pictures(addresses)) as results:
            for result in results:
                done.add(result)
                if "reason" in result:
                    failures.write(json.dumps(result) + "\n")
                    failures.flush()
                bar.update()
                bar.set_postfix(new=done.downloaded, there=done.present, failed=done.failed, refresh=False)
    return done


@dataclass
class _Download:
    folder: Path
    unfinished: Path
    arguments: DownloadArguments
    private_hosts: Hosts
    stop: threading.Event = field(default_factory=threading.Event)

    def pictures(self, addresses: Iterable[tuple[str, str]]) -> Generator[dict[str, Any], None, None]:
        """Yields what became of each picture, as they end; the queue is bounded, for there may be millions."""
        # Not a ThreadPoolExecutor, whose `wait` keeps its locks when a signal ends it: the program would never end.
        tasks: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        results: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()

        def work() -> None:
            while (task := tasks.get()) is not None and not self.stop.is_set():
                try:
                    results.put(self.picture(*task))
                except BaseException as error:
                    results.put(error)

        def settled() -> dict[str, Any]:
            if isinstance(result := results.get(), BaseException):
                raise result
            return result

        workers = [threading.Thread(target=work, daemon=True) for _ in range(self.arguments.num_download_workers)]
        for worker in workers:
            worker.start()
        running = 0
        try:
            for address in addresses:
                tasks.put(address)
                running += 1
                if running == 4 * len(workers):
                    yield settled()
                    running -= 1
            for _ in range(running):
                yield settled()
        finally:
            self.stop.set()
            for _ in workers:
                tasks.put(None)

    def picture(self, item_id: str, url: str) -> dict[str, Any]:
        name = hashed_name(item_id)
        place = self.folder / name[:2] / name  # a million files do not belong in one folder
        if _is_there(place):
            return {"outcome": "present"}
        max_bytes = int(self.arguments.max_image_megabytes * 1_000_000)
        for attempt in range(1, 2 + self.arguments.image_retries):
            try:
                data = fetch(url, self.arguments.image_timeout, max_bytes, self.private_hosts)
                suffix = _suffix(data)
                break
            except FetchError as error:
                pause = self.arguments.image_backoff * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
                is_last = not error.again or attempt > self.arguments.image_retries
                if is_last or self.stop.wait(min(max(pause, error.after), MAX_WAIT)):
                    failure = {"item_id": item_id, "url": url, "reason": str(error), "attempts": attempt}
                    return {"outcome": "failed", "kind": error.kind, **failure}
        unfinished = self.unfinished / f"{name}-{threading.get_ident()}"
        unfinished.write_bytes(data)
        place.parent.mkdir(exist_ok=True)
        os.replace(unfinished, f"{place}{suffix}")
        return {"outcome": "downloaded", "bytes": len(data)}


def _suffix(data: bytes) -> str:
    """Decodes the whole picture and returns the ending of its kind."""
    if not data:
        raise FetchError("an empty file came", again=True)
    try:
        with _decoding:
            open_picture(data)
    except UnreadablePicture as error:
        raise FetchError("no picture", str(error)) from error
    if data[:3] == b"\xff\xd8\xff":  # of any size, where Image.open has a limit
        return SUFFIXES["JPEG"]
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return SUFFIXES[str(image.format)]


def _is_there(place: Path) -> bool:
    """Whether there is a good picture; removes what is none."""
    for path in (Path(f"{place}{suffix}") for suffix in SUFFIXES.values()):
        if os.path.lexists(path):
            try:
                if not path.is_symlink():
                    with _decoding:
                        open_picture(read_picture_file(path))
                    return True
            except (OSError, UnreadablePicture):
                pass
            path.unlink()
    return False
