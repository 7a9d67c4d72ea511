"""Downloads against a real HTTP server on the loopback: each way a link goes wrong, and a second run."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from recipes import download_images as module
from recipes.download_images import DownloadArguments, download_images, item_of
from recipes.raw_tables import find_pictures


def picture(kind: str = "JPEG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG = picture(), picture("PNG")


class Shop(BaseHTTPRequestHandler):
    """Serves one path a kind of trouble; `seen` counts requests."""

    seen: Counter[str] = Counter()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.strip("/")
        Shop.seen[name] += 1
        if name == "good.png":
            self.answer(PNG)
        elif name == "chunkless":  # no length: the connection's end is the picture's end
            self.send_response(200)
            self.end_headers()
            self.wfile.write(JPEG)
        elif name == "moved":
            self.send_response(302)
            self.send_header("Location", "/good.jpg")
            self.end_headers()
        elif name == "moved_to_a_file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif name == "missing":
            self.answer(b"gone", 404)
        elif name == "silent":
            time.sleep(1.0)
        elif name == "dripping":
            self.send_response(200)
            self.send_header("Content-Length", str(len(JPEG)))
            self.end_headers()
            try:
                for byte in JPEG[:40]:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:  # the client has given up, as it should
                pass
        elif name == "truncated":
            self.answer(JPEG[: len(JPEG) // 2], length=len(JPEG))
        elif name == "half":  # the server's own file is broken: the length agrees
            self.answer(JPEG[: len(JPEG) // 2])
        elif name == "busy_once":
            self.answer(JPEG, 503 if Shop.seen[name] == 1 else 200)
        elif name == "large":
            self.answer(JPEG * 100)
        elif name == "large_without_length":
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(JPEG * 1000)
            except OSError:
                pass
        elif name == "page":
            self.answer(b"<html>This item is no longer available</html>")
        elif name == "empty":
            self.answer(b"")
        elif name == "icon":
            self.answer(picture("BMP"))
        else:
            self.answer(JPEG)

    def answer(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[str]:
    Shop.seen = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def arguments(**changes: float) -> DownloadArguments:
    limits = {"image_timeout": 0.5, "image_retries": 2, "image_backoff": 0.01, "max_image_megabytes": 0.1}
    return DownloadArguments(download_images=True, num_download_workers=8, **(limits | changes))  # type: ignore[arg-type]


def failures(folder: Path) -> dict[str, dict[str, object]]:
    lines = (folder / "failures.jsonl").read_text().splitlines()
    return {row["item_id"]: row for row in map(json.loads, lines)}


def found(folder: Path) -> dict[str, Path]:
    return {item_id: path for item_id, path, _ in find_pictures(folder, item_of)}


def test_good_pictures_get_the_ending_of_their_kind(server: str, tmp_path: Path) -> None:
    names = {"a/b ..\\": "good.jpg", "B00": "good.png", "C": "moved", "D": "chunkless"}
    done = download_images([(item, f"{server}/{name}") for item, name in names.items()], tmp_path, arguments())
    assert (done.asked, done.downloaded, done.failed, done.present) == (4, 4, 0, 0)
    assert done.bytes == 3 * len(JPEG) + len(PNG)
    files = found(tmp_path)
    assert set(files) == set(names), "ids come back from file names, odd characters included"
    assert files["B00"].suffix == ".png" and files["B00"].read_bytes() == PNG
    assert all(path.parent.parent == tmp_path for path in files.values())
    assert failures(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "reason", "attempts"),
    [
        ("missing", "HTTP 404", 1),
        ("silent", "not done after 0.5 seconds", 3),
        ("dripping", "not done after 0.5 seconds", 3),
        ("truncated", "bytes came", 3),
        ("half", "not a whole picture", 1),
        ("large", "more than 100000 bytes", 1),
        ("large_without_length", "more than 100000 bytes", 1),
        ("page", "not a whole picture", 1),
        ("empty", "an empty file came", 3),
        ("icon", "kind BMP", 1),
        ("moved_to_a_file", "HTTP 302", 1),
    ],
)
def test_a_dead_link_is_a_missing_picture(server: str, tmp_path: Path, name: str, reason: str, attempts: int) -> None:
    started = time.monotonic()
    done = download_images([("x", f"{server}/{name}"), ("y", f"{server}/good")], tmp_path, arguments())
    assert time.monotonic() - started < 8
    assert (done.downloaded, done.failed) == (1, 1)
    failure = failures(tmp_path)["x"]
    assert reason in str(failure["reason"])
    assert failure["attempts"] == attempts == Shop.seen[name]
    assert failure["url"] == f"{server}/{name}"
    assert set(found(tmp_path)) == {"y"} and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "url", ["ftp://x/y.jpg", "file:///etc/hostname", "", "http://[broken", "http://127.0.0.1:1/x"]
)
def test_unusable_addresses_fail_alone(tmp_path: Path, url: str) -> None:
    done = download_images([("x", url)], tmp_path, arguments())
    assert (done.downloaded, done.failed) == (0, 1)
    assert failures(tmp_path)["x"]["reason"]


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    done = download_images([("x", f"{server}/busy_once")], tmp_path, arguments())
    assert done.downloaded == 1 and Shop.seen["busy_once"] == 2


def test_a_second_run_fetches_only_what_is_missing(server: str, tmp_path: Path) -> None:
    addresses = [(str(number), f"{server}/{number}") for number in range(40)]
    assert download_images(addresses[:30] + [("z", f"{server}/missing")], tmp_path, arguments()).downloaded == 30
    files = found(tmp_path)
    files["3"].write_bytes(JPEG[: len(JPEG) // 2])  # cut off behind our back
    files["4"].unlink()
    stale = files["4"].with_name("4.part")
    stale.write_bytes(JPEG[:10])  # the last run was killed here
    Shop.seen.clear()
    done = download_images(addresses, tmp_path, arguments())
    assert (done.present, done.downloaded, done.failed) == (28, 12, 0)
    assert set(Shop.seen) == {"3", "4", *map(str, range(30, 40))}
    assert len(found(tmp_path)) == 40 and not stale.exists() and failures(tmp_path) == {}


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


def test_a_full_disk_stops_the_run(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        download_images([("x", f"{server}/good")], tmp_path, arguments())
    assert not list(tmp_path.rglob("*.part"))


def test_too_many_pixels_are_refused_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(PNG)
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(Exception, match="3072 pixels"):
        module._check(path)
    path.write_bytes(JPEG)
    assert module._check(path) == ".jpg", "a JPEG of any size can be drawn small"
