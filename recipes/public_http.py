"""Fetches files from the public web by addresses that come from strangers.

Wherever an address or a redirect leads, a connection is only made to a public IP address: the host name is resolved
once, and the very address that was checked is connected to. There is no proxy, no password and no cookie, and nothing
is unbounded: bytes, redirects and the time that one fetch takes.
"""

import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

MAX_REDIRECTS = 5
_CHUNK = 65_536
_PORTS = {"http": 80, "https": 443}
_HEADERS = {"User-Agent": "unimp-recipes", "Accept-Encoding": "identity", "Connection": "close"}
_SAFE = "/%:=&~+!$,;'@()*[]|"  # in an address, beside letters and digits

_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Beside what `ipaddress` of every Python knows: protocol assignments, relays, documentation, and tunnels to IPv4.
_OTHER = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
]  # fmt: skip

Hosts = frozenset[tuple[str, int | None]]


class FetchError(Exception):
    """Why nothing was fetched.

    Args:
        kind (`str`): in a few words, the same for all errors of a kind.
        detail (`str`, *optional*): more about this one.
        again (`bool`, *optional*, defaults to `False`): whether another attempt may succeed.
        after (`float`, *optional*, defaults to 0.0): seconds that the server asks to wait before it.
    """

    def __init__(self, kind: str, detail: str = "", again: bool = False, after: float = 0.0):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.again, self.after = kind, again, after


def named_hosts(names: Iterable[str]) -> Hosts:
    """Reads names of hosts such as `"images.shop.internal:8080"`; without a port all its ports are meant.

    Raises:
        ValueError: something else, such as a whole address.
    """
    hosts = set()
    for name in names:
        try:
            parts = urlsplit(f"//{name}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.netloc != name or parts.username is not None:
            raise ValueError(f"{name!r} is no host. Expected one such as images.shop.internal:8080 or 10.0.0.7.")
        hosts.add((host, port))
    return frozenset(hosts)


def is_public(text: str) -> bool:
    """Tells whether an IP address is one of the public internet; of IPv6 also by the IPv4 address that is in it."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _OTHER)


def fetch(url: str, timeout: float, max_bytes: int, private_hosts: Hosts = frozenset()) -> bytes:
    """Returns what is at an http(s) address.

    Args:
        url (`str`): of anybody's making.
        timeout (`float`): seconds for all of it, redirects included. (Only the resolver has its own limit.)
        max_bytes (`int`): larger files are refused, however the server declares them.
        private_hosts (`Hosts`, *optional*): hosts that may have private addresses, as [`named_hosts`] reads them.

    Raises:
        FetchError: anything that goes wrong.
    """
    deadline = time.monotonic() + timeout
    try:
        for _ in range(1 + MAX_REDIRECTS):
            with closing(_connection(url, deadline, private_hosts)) as connection:
                connection.request("GET", _target(url), headers=_HEADERS)
                with connection.getresponse() as response:
                    if (moved_to := _moved_to(response)) is None:
                        return _body(response, max_bytes)
            url = urljoin(url, moved_to)
    except TimeoutError as error:
        raise FetchError(f"not done after {timeout:g} seconds", again=True) from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError("no valid certificate", error.verify_message) from error
    except InvalidURL as error:
        raise FetchError("unusable address", str(error)) from error
    except (HTTPException, OSError) as error:
        raise FetchError("broken connection", f"{type(error).__name__}: {error}", again=True) from error
    except ValueError as error:  # brackets, ports and names of hosts that are none, also of a redirect
        raise FetchError("unusable address", str(error)) from error
    raise FetchError(f"more than {MAX_REDIRECTS} redirects")


def _connection(url: str, deadline: float, private_hosts: Hosts) -> HTTPConnection:
    parts = urlsplit(url.strip())
    if parts.scheme not in _PORTS:
        raise FetchError("not an http(s) address")
    if not parts.hostname:
        raise FetchError("unusable address", "it names no host")
    host, port = parts.hostname.encode("idna").decode(), parts.port or _PORTS[parts.scheme]
    is_private_allowed = not private_hosts.isdisjoint({(parts.hostname, None), (parts.hostname, port)})
    plain = _connected(host, port, deadline, is_private_allowed)
    # With a socket of its own, and `auto_open` off, the connection never resolves the name again.
    if parts.scheme == "http":
        connection = HTTPConnection(host, port)
        connection.sock = plain
    else:
        connection = HTTPSConnection(host, port, context=_certificates())
        try:
            plain.settimeout(_left(deadline))
            secured = _certificates().wrap_socket(plain, server_hostname=host)
            assert isinstance(secured, _TLSSocket)
            secured.deadline = deadline
            connection.sock = secured
        except BaseException:
            plain.close()
            raise
    connection.auto_open = 0
    connection.sock.settimeout(_left(deadline))
    return connection


def _connected(host: str, port: int, deadline: float, is_private_allowed: bool) -> "_PlainSocket":
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise FetchError("unknown host", str(error), again=error.errno == socket.EAI_AGAIN) from error
    usable = [each for each in found if is_private_allowed or is_public(str(each[4][0]))]
    if not usable:
        raise FetchError("not a public address", f"{host} is {found[0][4][0]}; name your own hosts in --private_hosts")
    errors: list[OSError] = []
    for family, kind, protocol, _, address in usable:
        plain = _PlainSocket(family, kind, protocol)
        plain.deadline = deadline
        try:
            plain.settimeout(_left(deadline) / (len(usable) - len(errors)))
            plain.connect(address)
            return plain
        except OSError as error:
            plain.close()
            errors.append(error)
    raise errors[-1]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _UntilDeadline:
    """A socket whose reading ends at a moment, however little comes at a time: a timeout is of one reading alone."""

    deadline: float

    def recv_into(self, *args: Any, **options: Any) -> int:
        self.settimeout(_left(self.deadline))  # type: ignore[attr-defined]
        return int(super().recv_into(*args, **options))  # type: ignore[misc]


class _PlainSocket(_UntilDeadline, socket.socket):
    pass


class _TLSSocket(_UntilDeadline, ssl.SSLSocket):
    pass


@functools.cache
def _certificates() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    return context


def _target(url: str) -> str:
    parts = urlsplit(url.strip())
    path, query = (quote(part, safe=_SAFE, errors="replace") for part in (parts.path or "/", parts.query))
    return f"{path}?{query}" if query else path


def _moved_to(response: HTTPResponse) -> str | None:
    """Where a redirect leads; None where there is none."""
    place = response.headers.get("Location")
    if response.status not in (301, 302, 303, 307, 308) or not place:
        return None
    return quote(place.encode("latin-1", "replace"), safe=f"{_SAFE}?#")  # as http.client decodes headers


def _body(response: HTTPResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        after = response.headers.get("Retry-After", "")
        raise FetchError(
            f"HTTP {response.status}",
            again=response.status in (408, 425, 429) or response.status >= 500,
            after=float(after) if after.isdecimal() else 0.0,
        )
    if (coding := response.headers.get("Content-Encoding", "identity").strip().lower()) not in ("", "identity"):
        raise FetchError("a coded file, which was not asked for", coding[:80])
    expected = response.length
    parts, received = [], 0
    while True:
        if max(received, expected or 0) > max_bytes:
            raise FetchError(f"more than {max_bytes} bytes")
        # read1 returns what is there: `read` would wait for a whole chunk.
        if not (chunk := response.read1(_CHUNK)):
            break
        received += len(chunk)
        parts.append(chunk)
    if expected is not None and received < expected:
        raise FetchError("cut short", f"{received} of {expected} bytes came", again=True)
    return b"".join(parts)
