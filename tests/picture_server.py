"""A server on the loopback with one path for each way a link goes wrong."""

import gzip
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def picture(kind: str = "JPEG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG = picture(), picture("PNG")


class Shop(BaseHTTPRequestHandler):
    """Serves one path a kind of trouble; `seen` counts requests."""

    seen: Counter[str] = Counter()
    hosts: set[str | None] = set()
    elsewhere = ""  # where /moved_elsewhere leads

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.strip("/")
        Shop.seen[name] += 1
        Shop.hosts.add(self.headers["Host"])
        if name == "good.png":
            self.answer(PNG)
        elif name == "chunkless":  # no length: the connection's end is the picture's end
            self.head()
            self.wfile.write(JPEG)
        elif name == "chunked":
            self.head({"Transfer-Encoding": "chunked"})
            for start in range(0, len(JPEG), 500):
                part = JPEG[start : start + 500]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif name == "moved":
            self.moved("/good.jpg")
        elif name == "moved_to_a_file":
            self.moved("file:///etc/hostname")
        elif name == "moved_elsewhere":
            self.moved(Shop.elsewhere)
        elif name == "moved_nowhere":
            self.moved("http://[broken")
        elif name.startswith("moved_again"):
            self.moved(f"/moved_again{Shop.seen[name]}")
        elif name == "missing":
            self.answer(b"gone", 404)
        elif name == "silent":
            time.sleep(1.0)
        elif name == "dripping":
            self.head({"Content-Length": str(len(JPEG))})
            self.drip(JPEG)
        elif name == "dripping_header":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 1_000)
        elif name == "always_continuing":
            self.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        elif name == "endless_header":
            self.pour(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 60_000 + b"\r\n")
        elif name == "truncated":
            self.answer(JPEG[: len(JPEG) // 2], length=len(JPEG))
        elif name == "half":  # the server's own file is broken: the length agrees
            self.answer(JPEG[: len(JPEG) // 2])
        elif name == "busy_once":
            self.answer(JPEG, 503 if Shop.seen[name] == 1 else 200)
        elif name == "large":
            self.answer(JPEG * 100)
        elif name == "large_without_length":
            self.head()
            self.pour(JPEG)
        elif name == "large_chunk":
            self.head({"Transfer-Encoding": "chunked"})
            self.pour(b"fffffff\r\n", JPEG)
        elif name == "lying_length":  # what comes after it is not read
            self.answer(PNG + JPEG * 100, length=len(PNG))
        elif name == "coded":
            self.answer(gzip.compress(bytes(50_000_000)), coding="gzip")
        elif name == "page":
            self.answer(b"<html>This item is no longer available</html>")
        elif name == "drawing":  # Pillow would hand it to another program
            self.answer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
        elif name == "empty":
            self.answer(b"")
        elif name == "icon":
            self.answer(picture("ICO"))
        else:
            self.answer(JPEG)

    def head(self, fields: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for field, value in (fields or {}).items():
            self.send_header(field, value)
        self.end_headers()

    def moved(self, place: str) -> None:
        self.head({"Location": place}, 302)

    def answer(self, body: bytes, status: int = 200, length: int | None = None, coding: str = "identity") -> None:
        size = str(len(body) if length is None else length)
        self.head({"Content-Length": size, "Content-Encoding": coding}, status)
        self.pour(body, b"")

    def pour(self, start: bytes, more: bytes | None = None) -> None:
        try:
            self.wfile.write(start)
            for _ in range(1_000):
                self.wfile.write(start if more is None else more)
        except OSError:  # the client has given up, as it should
            pass

    def drip(self, data: bytes) -> None:
        try:
            for byte in data[:60]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass


@contextmanager
def running(handler: Any = Shop) -> Iterator[ThreadingHTTPServer]:
    Shop.seen, Shop.hosts = Counter(), set()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
