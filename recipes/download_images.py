"""Downloads the pictures of a catalogue: parallel, with time and size limits, retries, and resumable.

A dead link is a missing picture: it is noted in failures.jsonl and the rest goes on. A file has its final name only
once Pillow has decoded it whole, so what is there is good and a second run fetches only what is missing.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from PIL import Image, JpegImagePlugin
from tqdm import tqdm

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}
MAX_PIXELS = 50_000_000  # what the catalogue opens; see `processing_unimp/picture.py`
MAX_WAIT = 60.0  # seconds before a retry, however long the server asks for
_CHUNK = 65_536


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


@dataclass
class DownloadSummary:
    """How many pictures were asked for, and what became of them."""

    asked: int = 0
    present: int = 0
    downloaded: int = 0
    failed: int = 0
    bytes: int = 0


class _Failure(Exception):
    def __init__(self, reason: str, again: bool = False, after: float = 0.0):
        super().__init__(reason)
        self.again, self.after = again, after


def download_images(
    addresses: Iterable[tuple[str, str]], folder: Path, arguments: DownloadArguments, total: int | None = None
) -> DownloadSummary:
    """Fetches one picture an item into `<folder>/<2 hex digits>/<item id>.<kind>`.

    Args:
        addresses (`Iterable[tuple[str, str]]`): item id and http(s) address, each item once; read as it is needed.
        folder (`Path`): made if needed. `failures.jsonl` in it lists this run's failures: item_id, url, reason,
            attempts.
        arguments (`DownloadArguments`): limits.
        total (`int`, *optional*): number of addresses, for the progress bar.

    Returns:
        `DownloadSummary`: counts; `present` are good files of an earlier run.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing else stops the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = DownloadSummary()
    waiting: set[Future[dict[str, Any]]] = set()
    with (
        (folder / "failures.jsonl").open("w", encoding="utf-8") as failures,
        tqdm(total=total, desc="pictures", unit=" pictures") as bar,
        ThreadPoolExecutor(arguments.num_download_workers) as workers,
    ):

        def settle(finished: Iterable[Future[dict[str, Any]]]) -> None:
            for future in finished:
                result = future.result()
                outcome = result.pop("outcome")
                done.bytes += result.pop("bytes", 0)
                setattr(done, outcome, getattr(done, outcome) + 1)
                if outcome == "failed":
                    failures.write(json.dumps(result) + "\n")
                    failures.flush()
                bar.update()
                bar.set_postfix(new=done.downloaded, there=done.present, failed=done.failed, refresh=False)

        try:
            for item_id, url in addresses:
                done.asked += 1
                waiting.add(workers.submit(_fetch, item_id, url, folder, arguments))
                if len(waiting) >= 4 * arguments.num_download_workers:  # a bounded queue for millions of addresses
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    settle(finished)
            settle(waiting)
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def item_of(stem: str) -> str | None:
    """Returns the item id that a downloaded file's name stands for."""
    return unquote(stem)


def _place(item_id: str, folder: Path) -> Path:
    shard = hashlib.sha256(item_id.encode()).hexdigest()[:2]  # a million files do not belong in one folder
    return folder / shard / quote(item_id, safe="")


def _fetch(item_id: str, url: str, folder: Path, arguments: DownloadArguments) -> dict[str, Any]:
    place = _place(item_id, folder)
    for suffix in dict.fromkeys(SUFFIXES.values()):
        path = place.with_name(place.name + suffix)
        if path.is_file():
            if _reads(path):
                return {"outcome": "present"}
            path.unlink()
    place.parent.mkdir(exist_ok=True)
    part = place.with_name(place.name + ".part")
    attempts = 0
    while True:
        attempts += 1
        try:
            with part.open("wb") as file:
                size = 0
                for chunk in _read(url, arguments.image_timeout, int(arguments.max_image_megabytes * 1_000_000)):
                    size += file.write(chunk)
            suffix = _check(part)
            os.replace(part, place.with_name(place.name + suffix))
            return {"outcome": "downloaded", "bytes": size}
        except _Failure as failure:
            part.unlink(missing_ok=True)
            if failure.again and attempts <= arguments.image_retries:
                pause = arguments.image_backoff * 2 ** (attempts - 1) * random.uniform(0.8, 1.2)
                time.sleep(min(max(pause, failure.after), MAX_WAIT))
                continue
            return {
                "outcome": "failed",
                "item_id": item_id,
                "url": url,
                "reason": str(failure),
                "attempts": attempts,
            }
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _read(url: str, timeout: float, max_bytes: int) -> Iterator[bytes]:
    """Yields the body; what the network does wrong becomes `_Failure`, what the disk does wrong does not pass here."""
    if not url.lower().startswith(("http://", "https://")):
        raise _Failure("not an http(s) address")
    deadline = time.monotonic() + timeout
    received, expected = 0, None
    try:
        with urlopen(Request(url, headers={"User-Agent": "unimp-recipes"}), timeout=timeout) as response:
            if (length := response.headers.get("Content-Length", "")).isdecimal():
                expected = int(length)
            while True:
                if max(received, expected or 0) > max_bytes:
                    raise _Failure(f"more than {max_bytes} bytes")
                # read1 returns what is there: `read` would wait for a whole chunk of a dripping server.
                chunk = response.read1(_CHUNK)
                if not chunk:
                    break
                received += len(chunk)
                yield chunk
                if time.monotonic() > deadline:
                    raise _Failure(f"not done after {timeout:g} seconds", again=True)
    except HTTPError as error:
        error.close()
        after = error.headers.get("Retry-After", "")
        busy = error.code in (408, 425, 429) or error.code >= 500
        raise _Failure(f"HTTP {error.code}", again=busy, after=float(after) if after.isdecimal() else 0.0) from error
    except TimeoutError as error:
        raise _Failure(f"not done after {timeout:g} seconds", again=True) from error
    except URLError as error:
        reason = f"not done after {timeout:g} seconds" if isinstance(error.reason, TimeoutError) else str(error.reason)
        raise _Failure(reason, again=True) from error
    except (HTTPException, OSError) as error:
        raise _Failure(f"{type(error).__name__}: {error}", again=True) from error
    except ValueError as error:  # an address with control characters or a broken port
        raise _Failure(f"unusable address: {error}") from error
    if expected is not None and received < expected:
        raise _Failure(f"{received} of {expected} bytes came", again=True)


def _check(path: Path) -> str:
    """Decodes the whole picture and returns the ending of its kind."""
    if path.stat().st_size == 0:
        raise _Failure("an empty file came", again=True)
    try:
        with Image.open(path) as image:
            kind, pixels = image.format or "", image.width * image.height
            if kind not in SUFFIXES:
                raise _Failure(f"a picture of the kind {kind}; expected {', '.join(SUFFIXES)}")
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                image.draft("RGB", (image.width // 8, image.height // 8))  # reads the whole file at 1/64 of the pixels
            elif pixels > MAX_PIXELS:
                raise _Failure(f"{pixels} pixels, more than {MAX_PIXELS}")
            image.load()
    except _Failure:
        raise
    except Image.DecompressionBombError as error:
        raise _Failure(f"too many pixels: {error}") from error
    except Exception as error:  # decoders raise nearly anything
        raise _Failure(f"not a whole picture: {type(error).__name__}") from error
    return SUFFIXES[kind]


def _reads(path: Path) -> bool:
    try:
        _check(path)
    except _Failure:
        return False
    return True
