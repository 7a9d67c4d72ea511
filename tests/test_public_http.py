"""Addresses of strangers: only public hosts are connected to, within limits, against a real server on the loopback."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from picture_server import JPEG, PNG, Shop, running
from raw_shop import ROOT

from recipes.public_http import FetchError, fetch, is_public, named_hosts


@pytest.fixture
def port() -> Iterator[int]:
    with running() as server:
        yield server.server_address[1]


def get(url: str, *private_hosts: str, timeout: float = 20.0) -> bytes:
    return fetch(url, timeout, 100_000, named_hosts(private_hosts))


# --- which addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.31.0.1",
        "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1",
        "5f00::1",
        "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888", "2606:4700::1111"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0", "localhost", "LOCALHOST.",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "\u2460\u2461\u2466.0.0.1", "example.com@127.0.0.1",
    ],
)  # fmt: skip
def test_nothing_is_asked_of_this_machine_however_it_is_spelt(port: int, host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(FetchError, match=r"not a public address|unknown host"):
            get(f"{scheme}://{host}:{port}/good.jpg")
    assert not Shop.seen


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name server that gives a public address to the check and the loopback to the connection.
    asked: list[str] = []
    loopback = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
    unreachable = [(*loopback[0][:4], ("240.0.0.1", port))]

    def rebinding(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [*(unreachable if len(asked) == 1 else loopback)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("recipes.public_http.is_public", lambda address: address == "240.0.0.1")
    with pytest.raises(FetchError, match=r"broken connection|not done"):
        get(f"http://rebind.example:{port}/good.jpg")
    assert asked == ["rebind.example"] and not Shop.seen


def test_proxies_of_the_environment_are_not_used(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    with pytest.raises(FetchError, match="unknown host"):
        get("http://shop.invalid/good.jpg")
    assert not Shop.seen


# --- hosts of one's own


@pytest.mark.parametrize("named", ["127.0.0.1:{port}", "127.0.0.1"])
def test_a_host_of_ones_own_is_named(port: int, named: str) -> None:
    assert get(f"http://127.0.0.1:{port}/good.jpg", named.format(port=port)) == JPEG
    assert Shop.hosts == {f"127.0.0.1:{port}"}


@pytest.mark.parametrize("named", ["127.0.0.1:1", "localhost", "10.0.0.1:{port}"])
def test_another_one_is_not_meant(port: int, named: str) -> None:
    with pytest.raises(FetchError, match="not a public address"):
        get(f"http://127.0.0.1:{port}/good.jpg", named.format(port=port))
    assert not Shop.seen


@pytest.mark.parametrize("name", ["http://10.0.0.7/", "10.0.0.7/x", "a:b", "user@10.0.0.7", "", "host:99999", "::1"])
def test_what_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no host. Expected one such as images.shop.internal:8080"):
        named_hosts([name])


# --- redirects


def test_redirects_are_followed_and_checked_anew(port: int) -> None:
    own = f"127.0.0.1:{port}"
    assert get(f"http://{own}/moved", own) == JPEG
    for place, reason in {
        f"http://localhost:{port}/secret": "not a public address",
        f"http://0x7f.1:{port}/secret": "not a public address",
        "http://169.254.169.254/latest/meta-data": "not a public address",
        "file:///etc/hostname": "not an http",
        "gopher://127.0.0.1/": "not an http",
        f"//localhost:{port}/secret": "not a public address",
    }.items():
        Shop.elsewhere = place
        with pytest.raises(FetchError, match=reason):
            get(f"http://{own}/moved_elsewhere", own)
    assert "secret" not in Shop.seen
    with pytest.raises(FetchError, match="more than 5 redirects"):
        get(f"http://{own}/moved_again", own)
    assert sum(number for name, number in Shop.seen.items() if name.startswith("moved_again")) == 6


def test_addresses_that_are_not_ascii_are_quoted(port: int) -> None:
    own = f"127.0.0.1:{port}"
    assert get(f"http://{own}/caf\u00e9 \ud83d.jpg?a=\u00fc&b=1#part", own) == JPEG
    assert list(Shop.seen) == ["caf%C3%A9%20%3F.jpg?a=%C3%BC&b=1"]


# --- limits


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("silent", "not done after 0.5 seconds"),
        ("dripping", "not done after 0.5 seconds"),
        ("dripping_header", "not done after 0.5 seconds"),
        ("always_continuing", "not done after 0.5 seconds"),
        ("endless_header", "broken connection"),
        ("large", "more than 100000 bytes"),
        ("large_without_length", "more than 100000 bytes"),
        ("large_chunk", "more than 100000 bytes"),
        ("truncated", "cut short"),
        ("coded", "a coded file, which was not asked for"),
        ("missing", "HTTP 404"),
        ("moved_nowhere", "unusable address"),
    ],
)
def test_nothing_is_without_limits(port: int, name: str, kind: str) -> None:
    own = f"127.0.0.1:{port}"
    with pytest.raises(FetchError) as caught:
        get(f"http://{own}/{name}", own, timeout=0.5 if "0.5 seconds" in kind else 20.0)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("name", "body"), [("chunkless", JPEG), ("chunked", JPEG), ("lying_length", PNG), ("empty", b"")]
)
def test_bodies_of_any_form(port: int, name: str, body: bytes) -> None:
    assert get(f"http://127.0.0.1:{port}/{name}", "127.0.0.1") == body


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y.jpg", "file:///etc/hostname", "", "//x/y", "http://", "http://[broken", "http://a:b/", "http://a..b/",
     "http://" + "a" * 100 + ".org/", "http://\ud83d.org/", "http://x:99999/", "http://x.invalid/\r\nHost: y"],
)  # fmt: skip
def test_unusable_addresses(url: str) -> None:
    with pytest.raises(FetchError, match=r"not an http\(s\) address|unusable address|unknown host"):
        get(url)


# --- certificates


def test_certificates_are_verified_against_the_host(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop", "-days", "1"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{pem}.key", "-out", f"{pem}.crt"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", f"{pem}.key")
    program = (
        "import sys; from recipes.public_http import FetchError, fetch, named_hosts\n"
        "for url in sys.argv[1:]:\n"
        "    try: print(len(fetch(url, 0.7, 100_000, named_hosts(['localhost', '127.0.0.1']))))\n"
        "    except FetchError as error: print(error.kind)\n"
    )

    def results(server: ThreadingHTTPServer, trusted: str) -> list[str]:
        port = server.server_address[1]
        urls = [f"https://{host}:{port}/{name}" for host, name in (("localhost", "x"), ("127.0.0.1", "x"))]
        done = subprocess.run(
            [sys.executable, "-c", program, *urls, f"https://localhost:{port}/dripping"],
            cwd=ROOT,
            env={"SSL_CERT_FILE": trusted},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    with running() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        assert results(server, f"{pem}.crt") == [str(len(JPEG)), "no valid certificate", "not done after 0.7 seconds"]
        assert results(server, "") == ["no valid certificate"] * 3, "nobody vouches for it"
