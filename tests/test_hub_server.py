"""The small Hub of the tests, asked with plain HTTP: what it keeps, what it refuses, what it serves."""

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hub_server import HubServer

USERS = {"hf_ada": {"name": "ada", "orgs": ["shop"]}, "hf_bob": {"name": "bob", "orgs": []}}
LARGE = bytes(range(256)) * 4000


@pytest.fixture
def hub(tmp_path) -> Iterator[HubServer]:
    server = HubServer(tmp_path, USERS)
    yield server
    server.close()


def ask(hub: HubServer, call: str, content: Any = None, token: str | None = "hf_ada", **headers: str) -> Any:
    """Status, headers and body of a call such as `"GET /api/whoami-v2"`."""
    method, path = call.split(" ", 1)
    data = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    request = urllib.request.Request(hub.url + path, data, headers, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def create(hub: HubServer, name: str = "mugs", **more: Any) -> int:
    return ask(hub, "POST /api/repos/create", {"name": name, "organization": "shop", **more})[0]


def commit(hub: HubServer, *operations: tuple[str, dict], branch: str = "main", **options: Any) -> Any:
    lines = [{"key": "header", "value": {"summary": "some files"}}]
    lines += [{"key": key, "value": value} for key, value in operations]
    data = b"\n".join(json.dumps(line).encode() for line in lines)
    return ask(hub, f"POST /api/models/shop/mugs/commit/{branch}", data, **options)


def small(path: str, data: bytes) -> tuple[str, dict]:
    return "file", {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}


def large(path: str, data: bytes) -> tuple[str, dict]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": hashlib.sha256(data).hexdigest(), "size": len(data)}


def upload_actions(hub: HubServer, data: bytes) -> dict[str, Any] | None:
    objects = [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}]
    answer = json.loads(ask(hub, "POST /shop/mugs.git/info/lfs/objects/batch", {"objects": objects})[2])
    return answer["objects"][0].get("actions")


def put(hub: HubServer, url: str, data: bytes) -> Any:
    return ask(hub, f"PUT {url.removeprefix(hub.url)}", data, token=None)


def test_a_repository_is_made_once_by_who_may(hub):
    assert create(hub) == 200 and create(hub) == 409
    assert ask(hub, "POST /api/repos/create", {"name": "own"})[0] == 200
    assert "ada/own" in str(ask(hub, "GET /api/models/ada/own")[2])
    assert ask(hub, "POST /api/repos/create", {"name": "x", "organization": "shop"}, token="hf_bob")[0] == 403
    assert ask(hub, "POST /api/repos/create", {"name": "x"}, token=None)[0] == 401
    assert ask(hub, "GET /api/whoami-v2", token="hf_stolen")[0] == 401
    assert ask(hub, "GET /api/models/shop/other")[1]["X-Error-Code"] == "RepoNotFound"
    assert commit(hub, small("a.txt", b"a"), token="hf_bob")[0] == 403


def test_a_private_repository_is_seen_by_its_owners_alone(hub):
    create(hub, visibility="private")
    commit(hub, small("a.txt", b"a"))
    for call in ("GET /api/models/shop/mugs", "GET /shop/mugs/resolve/main/a.txt", "GET /api/models/shop/mugs/refs"):
        assert ask(hub, call)[0] == 200
        for token in ("hf_bob", None):
            status, headers, _ = ask(hub, call, token=token)
            assert (status, headers["X-Error-Code"]) == (401, "RepoNotFound")


def test_files_are_served_with_their_identity(hub):
    create(hub)
    oid = json.loads(commit(hub, small("folder/a.txt", b"hello"))[2])["commitOid"]
    for call in ("HEAD", "GET"):
        status, headers, data = ask(hub, f"{call} /shop/mugs/resolve/main/folder/a.txt", token=None)
        assert (status, data) == (200, b"hello" if call == "GET" else b"")
        assert headers["Content-Length"] == "5" and headers["X-Repo-Commit"] == oid
        # The name that git gives this content.
        assert headers["ETag"] == '"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"'
    status, headers, data = ask(hub, "GET /shop/mugs/resolve/main/folder/a.txt", Range="bytes=1-3")
    assert (status, data, headers["Content-Range"]) == (206, b"ell", "bytes 1-3/5")
    assert ask(hub, "GET /shop/mugs/resolve/main/folder/a.txt", Range="bytes=3-")[2] == b"lo"
    assert ask(hub, "GET /shop/mugs/resolve/main/b.txt")[1]["X-Error-Code"] == "EntryNotFound"
    assert ask(hub, "GET /shop/mugs/resolve/other/folder/a.txt")[1]["X-Error-Code"] == "RevisionNotFound"


def test_the_tree(hub):
    create(hub)
    commit(hub, small("a.txt", b"a"), small("folder/b.txt", b"bb"))
    flat = json.loads(ask(hub, "GET /api/models/shop/mugs/tree/main")[2])
    assert [(each["type"], each["path"]) for each in flat] == [("file", "a.txt"), ("directory", "folder")]
    deep = json.loads(ask(hub, "GET /api/models/shop/mugs/tree/main?recursive=true")[2])
    assert [(each["path"], each["size"]) for each in deep] == [("a.txt", 1), ("folder/b.txt", 2)]
    assert [each["path"] for each in json.loads(ask(hub, "GET /api/models/shop/mugs/tree/main/folder")[2])] == [
        "folder/b.txt"
    ]
    commit(hub, ("deletedFolder", {"path": "folder"}))
    assert list(hub.files("shop/mugs")) == ["a.txt"]


def test_a_large_file_is_uploaded_once_and_then_committed(hub):
    create(hub)
    assert commit(hub, large("w.bin", LARGE))[0] == 400
    action = upload_actions(hub, LARGE)
    assert put(hub, action["upload"]["href"], LARGE[:-1])[0] == 400
    assert put(hub, action["upload"]["href"], LARGE)[0] == 200
    assert upload_actions(hub, LARGE) is None and list(hub.uploads.values()) == [len(LARGE)]
    assert commit(hub, large("w.bin", LARGE))[0] == 200
    _, headers, data = ask(hub, "GET /shop/mugs/resolve/main/w.bin")
    assert data == LARGE and headers["X-Linked-Size"] == str(len(LARGE))
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(LARGE).hexdigest()}"'


def test_a_large_file_in_parts(hub):
    create(hub)
    hub.part_bytes = 400_000
    upload = upload_actions(hub, LARGE)["upload"]
    parts = {name: url for name, url in upload["header"].items() if name != "chunk_size"}
    assert upload["header"]["chunk_size"] == "400000" and list(parts) == ["1", "2", "3"]
    for number, url in parts.items():
        assert put(hub, url, LARGE[(int(number) - 1) * 400_000 : int(number) * 400_000])[0] == 200
    done = {"parts": [{"partNumber": int(number)} for number in parts]}
    assert ask(hub, f"POST {upload['href'].removeprefix(hub.url)}", done)[0] == 200
    assert upload_actions(hub, LARGE) is None


def test_a_cut_connection_leaves_nothing_and_spends_the_address(hub):
    create(hub)
    hub.cut_after = 100_000
    url = upload_actions(hub, LARGE)["upload"]["href"]
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        put(hub, url, LARGE)
    assert put(hub, url, LARGE)[0] == 403
    assert upload_actions(hub, LARGE) is not None and not hub.uploads
    hub.mend()
    assert put(hub, url, LARGE)[0] == 200 and upload_actions(hub, LARGE) is None


def test_branches_tags_and_commits_are_revisions(hub):
    create(hub)
    first = json.loads(commit(hub, small("a.txt", b"one"))[2])["commitOid"]
    assert ask(hub, "POST /api/models/shop/mugs/branch/a%2Fb", {})[0] == 200
    assert ask(hub, "POST /api/models/shop/mugs/branch/a%2Fb", {})[0] == 409
    assert ask(hub, f"POST /api/models/shop/mugs/tag/{first}", {"tag": "v1"})[0] == 200
    commit(hub, small("a.txt", b"two"))
    commit(hub, small("a.txt", b"three"), branch="a%2Fb")
    assert commit(hub, small("a.txt", b"four"), branch="v1")[0] == 404, "a tag is no branch"
    served = {name: ask(hub, f"GET /shop/mugs/resolve/{name}/a.txt")[2] for name in ("main", "a%2Fb", "v1", first)}
    assert served == {"main": b"two", "a%2Fb": b"three", "v1": b"one", first: b"one"}
    refs = json.loads(ask(hub, "GET /api/models/shop/mugs/refs")[2])
    assert [ref["name"] for ref in refs["branches"]] == ["main", "a/b"] and refs["tags"][0]["targetCommit"] == first


@pytest.mark.parametrize(
    ("card", "status"),
    [("---\nlicense: mit\n---\n# x", 200), ("# x", 200), ("---\n[1, 2]\n---\n", 400), ("---\na: [\n---\n", 400)],
)
def test_a_card_is_checked(hub, card, status):
    assert ask(hub, "POST /api/validate-yaml", {"content": card, "repoType": "model"})[0] == status


def test_what_it_kept_another_server_serves(hub, tmp_path):
    create(hub)
    commit(hub, small("a.txt", b"kept"))
    again = HubServer(tmp_path, USERS)
    try:
        assert ask(again, "GET /shop/mugs/resolve/main/a.txt")[2] == b"kept"
    finally:
        again.close()


def test_commits_at_the_same_time_are_all_kept(hub):
    create(hub)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: commit(hub, small(f"{number}.txt", b"x"))[0], range(16)))
    assert done == [200] * 16 and len(hub.files("shop/mugs")) == 16
    assert len(hub.repo("shop/mugs")["commits"]) == 17
