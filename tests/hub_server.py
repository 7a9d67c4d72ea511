"""A small Hugging Face Hub on this machine, for tests: repositories, commits, large files, branches, tags, tokens.

It keeps everything on disk and answers the calls that huggingface_hub makes to publish and to load. It is more
lenient than the real Hub: it proves what the client sends, not what the Hub would take.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png")  # what .gitattributes of a new repository says
LARGE_BYTES = 2**20
KINDS = {"model": "models", "dataset": "datasets"}
REPO = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[str, re.Pattern, Callable]] = []


class Refused(Exception):
    """An error as the Hub answers it: status, X-Error-Code, message."""


def route(method: str, pattern: str) -> Callable:
    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern + "$"), function))
        return function

    return register


class HubServer:
    """
    Args:
        root (`Path`): where repositories and files are kept; what an earlier server left there is served again.
        users (`dict[str, dict]`): by token `{"name": ..., "orgs": [...]}`.

    Attributes:
        requests (`list[str]`): method and path of each, in order.
        uploads (`dict[str, int]`): bytes of large files that arrived, by SHA-256.
        cut_after (`int`, *optional*): close the connection after so many bytes of an upload, whose address is
            then spent.
        part_bytes (`int`, *optional*): ask for larger files in parts of so many bytes.
    """

    def __init__(self, root: Path, users: dict[str, dict[str, Any]]):
        self.root, self.users = root, users
        self.requests: list[str] = []
        self.uploads: dict[str, int] = {}
        self.cut_after: int | None = None
        self.part_bytes: int | None = None
        self.spent: set[str] = set()
        self.lock = threading.RLock()
        for folder in ("files", "repos"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def mend(self) -> None:
        self.cut_after = None
        self.spent.clear()

    def repo(self, name: str, kind: str = "models") -> dict[str, Any]:
        """`private`, `branches` and `tags` (name to commit), `commits` (id to title, parent and files by path)."""
        file = self.root / "repos" / kind / f"{name}.json"
        with self.lock:
            if not file.is_file():
                raise Refused(404, "RepoNotFound", "Repository not found")
            return json.loads(file.read_text())

    def write(self, name: str, kind: str, repo: dict[str, Any]) -> None:
        file = self.root / "repos" / kind / f"{name}.json"
        with self.lock:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(repo))

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, dict[str, Any]]:
        """By path, its `oid`, `size` and whether it is `lfs`."""
        repo = self.repo(name, kind)
        return repo["commits"][commit_of(repo, revision)]["files"]

    def read(self, name: str, path: str, revision: str = "main", kind: str = "models") -> bytes:
        return self.file(self.files(name, revision, kind)[path]["oid"]).read_bytes()

    def file(self, oid: str) -> Path:
        return self.root / "files" / oid

    def commit(self, name: str, kind: str, branch: str, title: str, files: dict[str, Any]) -> str:
        repo = self.repo(name, kind)
        parent = repo["branches"].get(branch)
        content = json.dumps([title, parent, files, len(repo["commits"])])
        oid = hashlib.sha1(content.encode()).hexdigest()
        repo["commits"][oid] = {"title": title, "parent": parent, "files": files}
        repo["branches"][branch] = oid
        self.write(name, kind, repo)
        return oid


def commit_of(repo: dict[str, Any], revision: str) -> str:
    known = repo["branches"] | repo["tags"] | {oid: oid for oid in repo["commits"]}
    if revision not in known:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return known[revision]


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.left = int(self.headers.get("Content-Length") or 0)  # bytes of the body that were not read yet
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for wanted, pattern, function in ROUTES:
                match = pattern.match(url.path)
                if wanted == method and match:
                    arguments = {name: unquote(value) for name, value in match.groupdict().items() if value}
                    if "name" in arguments:
                        self.check_reader(arguments["name"], arguments.setdefault("kind", "models"))
                    return function(self, **arguments)
            raise Refused(404, "", f"no such call: {self.command} {url.path}")
        except Refused as refusal:
            status, code, message = refusal.args
            self.body()
            self.answer({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, *arguments: Any) -> None:
        pass

    def body(self) -> bytes:
        left, self.left = self.left, 0
        return self.rfile.read(left)

    def json(self) -> Any:
        return json.loads(self.body())

    def answer(self, content: Any, status: int = 200, headers: dict[str, Any] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(data)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def user(self, needed: bool = True) -> dict[str, Any]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token in self.hub.users:
            return self.hub.users[token]
        if token or needed:
            raise Refused(401, "", "Invalid credentials in Authorization header" if token else "Log in first")
        return {"name": None, "orgs": []}

    def check_reader(self, name: str, kind: str) -> None:
        if self.hub.repo(name, kind)["private"] and not self.owns(name, self.user(needed=False)):
            raise Refused(401, "RepoNotFound", "Repository not found")

    def check_writer(self, name: str) -> None:
        if not self.owns(name, self.user()):
            raise Refused(403, "", f"You don't have the rights to write to {name}")

    def owns(self, name: str, user: dict[str, Any]) -> bool:
        return name.partition("/")[0] in (user["name"], *user["orgs"])


# ------------------------------------------------------------------------------------------------------ repositories


@route("GET", "/api/whoami-v2")
def whoami(call: Handler) -> None:
    user = call.user()
    call.answer({"type": "user", "name": user["name"], "orgs": [{"name": org} for org in user["orgs"]]})


@route("POST", "/api/repos/create")
def create(call: Handler) -> None:
    asked = call.json()
    name, kind = (
        f"{asked.get('organization') or call.user()['name']}/{asked['name']}",
        KINDS[asked.get("type", "model")],
    )
    call.check_writer(name)
    url = f"{call.hub.url}/{name if kind == 'models' else f'{kind}/{name}'}"
    with call.hub.lock:
        if (call.hub.root / "repos" / kind / f"{name}.json").is_file():
            return call.answer({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("visibility") == "private"
        call.hub.write(name, kind, {"private": private, "branches": {}, "tags": {}, "commits": {}})
        call.hub.commit(name, kind, "main", "initial commit", {})
    return call.answer({"url": url, "name": name})


@route("POST", "/api/validate-yaml")
def validate_card(call: Handler) -> None:
    card = call.json()["content"]
    try:
        found = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else None
        errors = [] if found is None or isinstance(found, dict) else [{"message": "the metadata is no mapping"}]
    except yaml.YAMLError as error:
        errors = [{"message": str(error)}]
    call.answer({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("GET", f"/api/{REPO}(/revision/(?P<revision>[^/]+))?")
def info(call: Handler, kind: str, name: str, revision: str = "main") -> None:
    repo = call.hub.repo(name, kind)
    oid = commit_of(repo, revision)
    siblings = [{"rfilename": path} for path in repo["commits"][oid]["files"]]
    call.answer({"id": name, "sha": oid, "private": repo["private"], "siblings": siblings, "tags": []})


@route("GET", f"/api/{REPO}/refs")
def refs(call: Handler, kind: str, name: str) -> None:
    repo = call.hub.repo(name, kind)
    named = {
        group: [{"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": oid} for ref, oid in repo[group].items()]
        for group, place in (("branches", "heads"), ("tags", "tags"))
    }
    call.answer(named | {"converts": []})


@route("POST", f"/api/{REPO}/(?P<group>branch|tag)/(?P<ref>[^/]+)")
def make_ref(call: Handler, kind: str, name: str, group: str, ref: str) -> None:
    call.check_writer(name)
    asked = call.json()
    with call.hub.lock:
        repo = call.hub.repo(name, kind)
        refs, ref, start = (
            (repo["branches"], ref, asked.get("startingPoint", "main"))
            if group == "branch"
            else (repo["tags"], asked["tag"], ref)
        )
        if ref in refs:
            raise Refused(409, "", f"Reference already exists: {ref}")
        refs[ref] = commit_of(repo, start)
        call.hub.write(name, kind, repo)
    call.answer({})


# ------------------------------------------------------------------------------------------------------------ upload


@route("POST", f"/api/{REPO}/preupload/(?P<revision>[^/]+)")
def preupload(call: Handler, kind: str, name: str, revision: str) -> None:
    call.check_writer(name)
    there = call.hub.files(name, revision, kind)
    answers = []
    for file in call.json()["files"]:
        large = file["path"].endswith(LARGE_SUFFIXES) or file["size"] >= LARGE_BYTES
        oid = there.get(file["path"], {}).get("oid")
        mode = "lfs" if large else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    call.answer({"files": answers})


@route("POST", r"/((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def batch(call: Handler, kind: str, name: str) -> None:
    call.check_writer(name)
    objects = []
    for each in call.json()["objects"]:
        url = f"{call.hub.url}/upload/{each['oid']}"
        upload: dict[str, Any] = {"href": url}
        size = call.hub.part_bytes
        if size is not None and each["size"] > size:
            parts = range(1, -(-each["size"] // size) + 1)
            upload["header"] = {"chunk_size": str(size)} | {str(part): f"{url}/{part}" for part in parts}
        if not call.hub.file(each["oid"]).is_file():
            each["actions"] = {"upload": upload}
        objects.append(each)
    call.answer({"transfer": "basic", "objects": objects})


@route("PUT", "/upload/(?P<oid>[0-9a-f]{64})(/(?P<part>[0-9]+))?")
def upload(call: Handler, oid: str, part: str = "") -> None:
    if oid in call.hub.spent:
        raise Refused(403, "", "the address of this upload is no longer valid")
    data = bytearray()
    while call.left:
        data += call.rfile.read(min(call.left, 2**16))
        call.left = int(call.headers["Content-Length"]) - len(data)
        if call.hub.cut_after is not None and len(data) > call.hub.cut_after:
            call.hub.spent.add(oid)
            call.close_connection = True
            call.connection.close()
            return
    if not part and hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "", "this is another file")
    with call.hub.lock:
        call.hub.uploads[oid] = call.hub.uploads.get(oid, 0) + len(data)
    call.hub.file(oid + (f".{part}" if part else "")).write_bytes(data)
    call.answer(b"", headers={"ETag": hashlib.md5(data).hexdigest()})


@route("POST", "/upload/(?P<oid>[0-9a-f]{64})")
def join_parts(call: Handler, oid: str) -> None:
    parts = [call.hub.file(f"{oid}.{part['partNumber']}") for part in call.json()["parts"]]
    data = b"".join(part.read_bytes() for part in parts)
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refused(400, "", "the parts do not make this file")
    call.hub.file(oid).write_bytes(data)
    for part in parts:
        part.unlink()
    call.answer({})


@route("POST", f"/api/{REPO}/commit/(?P<revision>[^/]+)")
def commit(call: Handler, kind: str, name: str, revision: str) -> None:
    call.check_writer(name)
    hub, title = call.hub, ""
    operations = [json.loads(line) for line in call.body().splitlines()]
    with hub.lock:
        if revision not in hub.repo(name, kind)["branches"]:
            raise Refused(404, "RevisionNotFound", f"no branch {revision}")
        files = dict(hub.files(name, revision, kind))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
            elif operation["key"] == "file":
                data = base64.b64decode(value["content"])
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                hub.file(oid).write_bytes(data)
                files[value["path"]] = {"oid": oid, "size": len(data), "lfs": False}
            elif operation["key"] == "lfsFile":
                if not hub.file(value["oid"]).is_file():
                    raise Refused(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = {"oid": value["oid"], "size": value["size"], "lfs": True}
            else:
                gone = [path for path in files if path == value["path"] or path.startswith(value["path"] + "/")]
                for path in gone:
                    del files[path]
        oid = hub.commit(name, kind, revision, title, files)
    call.answer({"commitOid": oid, "commitUrl": f"{hub.url}/{name}/commit/{oid}", "pullRequestUrl": None})


# ---------------------------------------------------------------------------------------------------------- download


def entry(path: str, file: dict[str, Any]) -> dict[str, Any]:
    lfs = {"lfs": {"oid": file["oid"], "size": file["size"], "pointerSize": 134}} if file["lfs"] else {}
    return {"type": "file", "path": path, "size": file["size"], "oid": file["oid"]} | lfs


@route("GET", f"/api/{REPO}/tree/(?P<revision>[^/]+)(/(?P<under>.+))?")
def tree(call: Handler, kind: str, name: str, revision: str, under: str = "") -> None:
    files = call.hub.files(name, revision, kind)
    prefix = f"{under}/" if under else ""
    entries = {}
    for path, file in files.items():
        if path.startswith(prefix):
            first, _, rest = path.removeprefix(prefix).partition("/")
            if rest and call.query.get("recursive", "").lower() != "true":
                entries[first] = {"type": "directory", "path": prefix + first, "size": 0, "oid": revision}
            else:
                entries[path] = entry(path, file)
    if under and not entries:
        raise Refused(404, "EntryNotFound", f"{under} does not exist")
    call.answer(list(entries.values()))


@route("GET", r"/((?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(call: Handler, kind: str, name: str, revision: str, path: str) -> None:
    repo = call.hub.repo(name, kind)
    oid = commit_of(repo, revision)
    file = repo["commits"][oid]["files"].get(path)
    if file is None:
        raise Refused(404, "EntryNotFound", "Entry not found")
    headers = {"X-Repo-Commit": oid, "ETag": f'"{file["oid"]}"', "Accept-Ranges": "bytes"}
    if file["lfs"]:
        headers |= {"X-Linked-Etag": f'"{file["oid"]}"', "X-Linked-Size": file["size"]}
    data, status = call.hub.file(file["oid"]).read_bytes(), 200
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or ""):
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        data, status = data[first : last + 1], 206
    call.answer(data, status, headers | {"Content-Type": "application/octet-stream"})
