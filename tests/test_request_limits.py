"""What strangers may send to the Space: the real app on loopback, and requests as no page and no client makes them."""

import base64
import itertools
import json
import os
import re
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shop import make_imagining_model, picture

from modeling_unimp import PersonalizationPipeline

gradio = pytest.importorskip("gradio", reason='the page needs gradio: pip install -e ".[demo]"')

import httpx  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from gradio_client import Client  # noqa: E402

from hub_cards.space import request_limits  # noqa: E402
from hub_cards.space.answers import Answers  # noqa: E402
from hub_cards.space.app import launch, make_page  # noqa: E402
from hub_cards.space.page_state import MAX_ERROR, MAX_HISTORY_ITEMS, with_item  # noqa: E402
from hub_cards.space.request_limits import FAULT, MAX_BODY, MAX_BODY_OF_PAGE  # noqa: E402
from processing_unimp.bounds import MAX_DATA_URI  # noqa: E402

HISTORY = ["m1"]
GOOD = {
    "recommend": [HISTORY, 2],
    "search": [HISTORY, "hat", 2],
    "rate": [HISTORY, "h1"],
    "explain": [HISTORY, "h1"],
    "select": [HISTORY, ["h1"]],
    "imagine": [HISTORY, "hat", 0],
}
JSON = {"Content-Type": "application/json"}
MCP = JSON | {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def page():
    model, processor = make_imagining_model()
    page = make_page(Answers(PersonalizationPipeline(model=model, processor=processor)), [])
    launch(page, server_name="127.0.0.1", quiet=True)
    yield page
    page.close()


@pytest.fixture(scope="module")
def web(page):
    with httpx.Client(base_url=page.local_url, timeout=30) as client:
        yield client


def call(web, task: str, body) -> str:
    """The words that a call is refused with, `""` where it is answered."""
    content = body if isinstance(body, bytes) else json.dumps({"data": body}).encode()
    reply = web.post(f"gradio_api/call/{task}", content=content, headers=JSON)
    if reply.status_code != 200:
        return said_in(reply)
    lines = web.get(f"gradio_api/call/{task}/{reply.json()['event_id']}").text.split("\n")
    event, data = [line.split(": ", 1)[1] for line in lines if ": " in line][-2:]
    return "" if event == "complete" else json.loads(data)["error"]


def said_in(reply) -> str:
    assert reply.status_code < 500, reply.text[:300]
    detail = reply.json()["detail"]
    return detail if isinstance(detail, str) else detail[0]["message"]


def use_tool(web, task: str, arguments) -> str:
    """The words that a tool of MCP refuses with, `""` where it answers."""
    called = {"name": task, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
    reply = web.post("gradio_api/mcp/", content=json.dumps(message), headers=MCP)
    assert reply.status_code == 200
    said = json.loads(reply.text[reply.text.index("{") :])
    if "error" in said:
        return said["error"]["message"]
    return said["result"]["content"][0]["text"] if said["result"]["isError"] else ""


def raw(page, head: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", page.server_port), timeout=30)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


# --- how much is read ---


@pytest.mark.parametrize("where", ["call/recommend", "queue/join", "mcp/", "cancel"])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(page, where):
    head = f"POST /gradio_api/{where} HTTP/1.1\nHost: x\nContent-Type: application/json\n"
    with raw(page, head + "Content-Length: 1000000000000\n\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("where", ["call/recommend", "queue/join", "mcp/"])
def test_a_body_that_does_not_end_is_refused_while_it_comes(page, where):
    head = f"POST /gradio_api/{where} HTTP/1.1\nHost: x\nContent-Type: application/json\n"
    part = b" " * 2**20
    sent = 0
    with raw(page, head + "Transfer-Encoding: chunked\n\n") as connection:
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            sent += len(part)
        assert connection.recv(12) == b"HTTP/1.1 413"
    assert MAX_BODY < sent < 2 * MAX_BODY, "what lies in buffers is not read"


def test_the_largest_picture_still_fits(web):
    head, known = "data:image/png;base64,", picture("red")
    filled = base64.b64encode(known + b"\0" * (MAX_DATA_URI * 3 // 4 - len(known) - 100)).decode()
    assert MAX_DATA_URI - 200 < len(head + filled) <= MAX_DATA_URI
    assert call(web, "recommend", [[{"title": "A mug", "image": head + filled}], 2]) == ""
    assert "characters" in call(web, "recommend", [[{"title": "A mug", "image": head + filled + "A" * 400}], 2])


def test_bodies_that_come_at_once_are_bounded_together(page, web, monkeypatch):
    monkeypatch.setattr(request_limits, "MAX_BYTES_IN_MEMORY", 1_000_000)
    head = "POST /gradio_api/call/rate HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 900000\n\n"
    with raw(page, head) as first, raw(page, head) as second:
        first.sendall(b" " * 600_000)
        second.sendall(b" " * 600_000)
        refused, _, _ = select.select([first, second], [], [], 30)
        assert [each.recv(12) for each in refused] == [b"HTTP/1.1 503"]
    # Once they have hung up there is room again.
    assert call(web, "rate", GOOD["rate"]) == ""


# --- what is read ---

DEEP = b'{"a": ' * 500 + b"1" + b"}" * 500


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"history", "no JSON"),
        (b"[1]", "expected an object"),
        (b"5", "expected an object"),
        (b'{"data": 9' + b"9" * 5000 + b"}", "no JSON"),  # more digits than Python reads
        (b'{"data": null}', r"data is None: expected the list \[history, top_k\]"),
        (b'{"data": "m1"}', r"data is 'm1': expected the list \[history, top_k\]"),
        (b'{"data": []}', r"expected the list \[history, top_k\]"),
        (b'{"data": [["m1"], 1, 2]}', r"expected the list \[history, top_k\]"),
        (b'{"data": [["m1"]], "session_hash": 5}', "session_hash is 5: expected text"),
        (b'{"data": [["m1"]], "session_hash": "%s"}' % (b"a" * 20_000), "Beside its values"),
        (b'{"data": [[' + DEEP + b"], 2]}", "more than 16 deep"),
        (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 16 deep"),
        (b'{"data": [[' + b"0," * 1_000_000 + b"0], 2]}", "more than 250000 values"),
        (b'{"data": [[' + b"[]," * 1_000_000 + b"[]], 2]}", "more than 250000 values"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_words(web, body, words):
    assert re.search(words, call(web, "recommend", body))


def test_values_at_the_end_may_be_left_out(web):
    assert call(web, "recommend", [HISTORY]) == call(web, "imagine", [HISTORY, "hat"]) == ""


def test_values_can_be_named(web):
    url = "gradio_api/call/v2/search"
    assert web.post(url, json={"history": HISTORY, "query": "hat"}).status_code == 200
    expected = r"expected \[history, query, top_k\]"
    assert re.search(expected, said_in(web.post(url, json={"history": HISTORY})))
    assert re.search(expected, said_in(web.post(url, json={"history": HISTORY, "query": "hat", "colour": "red"})))


WRONG = [None, True, -1, 1.5, 10**30, "zzz", "\x00\u202e", "a" * 200_000, [], [None], [[["m1"]]], {}, {"a": {"b": []}}]
WRONG += [["m1"] * 20_000, [{"item_id": "m1", "rating": "five"}], [{"item_id": ["m1"]}], [{"": 1}], [{"image": "x"}]]
WRONG += [float("nan"), float("inf"), [{"title": "half of a character: \ud800"}], [{"item_id": "m1", "rating": -3}]]


@pytest.mark.parametrize("task", GOOD)
def test_every_wrong_value_is_answered_or_refused_in_words(page, task):
    """Some of them are right somewhere, such as a title for a query; none is an error without words."""
    first = 0 if task == "recommend" else 1  # a history is read alike for all
    requests = [
        [*GOOD[task][:place], wrong, *GOOD[task][place + 1 :]]
        for place, wrong in itertools.product(range(first, len(GOOD[task])), WRONG)
    ]
    with httpx.Client(base_url=page.local_url, timeout=60) as web, ThreadPoolExecutor(4) as senders:
        told = list(senders.map(lambda values: call(web, task, values), requests))
    assert sum(map(bool, told)) > len(told) // 2
    for words in filter(None, told):
        assert len(words) <= MAX_ERROR and FAULT not in words
        assert "Traceback" not in words and str(Path(__file__).parent.parent) not in words


@pytest.mark.parametrize(
    ("task", "values", "words"),
    [
        ("recommend", [["m9"], 2], "item 'm9' is not among the 6 items"),
        ("recommend", [HISTORY, True], "top_k=True: expected a whole number from 1 to 100"),
        ("recommend", [HISTORY, 0], "top_k=0: expected a whole number"),
        ("recommend", [HISTORY, 10**9], "top_k=1000000000: expected a whole number from 1 to 100"),
        ("select", [HISTORY, ["m1"] * 1001], "'candidates' has 1001 entries: at most 1000"),
        ("imagine", [HISTORY, "hat", "7"], "seed='7': expected a whole number"),
        ("search", [HISTORY, "<b>", "3"], "top_k='3'"),
        ("search", [HISTORY, {"<b>": 1}, 3], "<b>"),  # a program gets the words as they are, not as HTML
    ],
)
def test_all_doors_say_the_same(page, web, task, values, words):
    assert words in call(web, task, values)
    client = Client(page.local_url, verbose=False)
    with pytest.raises(ValueError, match=re.escape(words)):
        client.predict(*values, api_name=f"/{task}")
    names = dict(zip(("history", "query" if task in ("search", "imagine") else "", "top_k"), values, strict=False))
    if task == "recommend":
        names = {"history": values[0], "top_k": values[1]}
        said = use_tool(web, task, names)
        assert words in said or "is not of type 'integer'" in said


def test_what_a_client_may_not_send_is_told_by_the_client(page):
    client = Client(page.local_url, verbose=False)
    nested = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(ValueError, match="more than 16 deep"):
        client.predict([nested], 2, api_name="/recommend")


def test_a_tool_says_briefly_what_was_wrong(web):
    assert use_tool(web, "recommend", {"history": ["m1"]}) == ""
    assert "required property" in use_tool(web, "recommend", {})
    assert "Unknown tool" in use_tool(web, "nonsense", {})
    assert "not a valid" in use_tool(web, "recommend", {"history": ["m1"], "colour": "red"})
    assert len(use_tool(web, "recommend", {"history": "a" * 1_000_000})) <= MAX_ERROR
    assert "Beside its values" in use_tool(web, "nonsense" * 10_000, {})
    assert "more than 16 deep" in use_tool(web, "recommend", {"history": [json.loads(DEEP)]})
    reply = web.post("gradio_api/mcp/", content=b'{"a": 1}', headers=MCP)
    assert "expected an object with a method" in reply.json()["error"]["message"]


# --- files ---


def test_no_file_is_given_out(web, tmp_path):
    known = Path(get_upload_folder()) / "known.txt"
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text("a file that Gradio itself would give out")
    (tmp_path / "link.txt").symlink_to("/etc/passwd")
    paths = [known, "/etc/passwd", "../../../etc/passwd", tmp_path / "link.txt", __file__, "hub_cards/space/style.css"]
    for path, door in itertools.product(paths, ("file=", "file/", "proxy=", "stream/")):
        assert web.get(f"gradio_api/{door}{path}").status_code == 404
    for where in ("static/../../../../etc/passwd", "assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd"):
        assert web.get(where).status_code in (400, 403, 404)
    known.unlink()


def test_no_file_is_taken(web):
    before = sorted(Path(get_upload_folder()).rglob("*"))
    assert web.post("gradio_api/upload", files={"files": ("a.txt", b"taken")}).status_code == 404
    assert web.post("gradio_api/call/recommend", files={"files": ("a.txt", b"taken")}).status_code == 415
    assert sorted(Path(get_upload_folder()).rglob("*")) == before


@pytest.mark.parametrize(
    "image",
    [
        "PATH",
        "file://PATH",
        {"path": "PATH"},
        {"path": "PATH", "meta": {"_type": "gradio.FileData"}},
        {"path": "PATH", "url": "http://127.0.0.1:9/", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1:9/", "meta": {"_type": "gradio.FileData"}},
        {"path": "PATH", "meta": "no object"},
    ],
)
def test_a_path_in_a_request_is_never_opened(page, web, tmp_path, image):
    """Who opens a FIFO waits for somebody to write into it; and whoever tried to write would be told of a reader."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    item = json.loads(json.dumps({"title": "A mug", "image": image}).replace("PATH", str(fifo)))
    for task, values in {"recommend": [[item], 2], "rate": [HISTORY, item], "select": [HISTORY, [item]]}.items():
        assert re.search("image|file", call(web, task, values))
    assert re.search("image|file", use_tool(web, "recommend", {"history": [item]}))
    number = next(each for each, function in page.fns.items() if function.api_name == "recommend")
    joined = {"fn_index": number, "session_hash": "stranger", "data": [[item], 2]}
    assert web.post("gradio_api/queue/join", json=joined).status_code in (200, 422)
    assert call(web, "rate", GOOD["rate"]) == "", "the model is free"
    with pytest.raises(OSError, match="No such device"):
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


def test_a_file_of_the_host_does_not_come_back_through_a_tool(web, tmp_path):
    """Gradio's tool of MCP would upload it, and select gives back what describes a candidate."""
    secret = tmp_path / "secret.txt"
    secret.write_text("known")
    named = {"title": "A mug", "doc": {"path": str(secret), "meta": {"_type": "gradio.FileData"}}}
    assert "no file is ever opened" in use_tool(web, "select", {"history": HISTORY, "candidates": [named]})
    assert not list(Path(get_upload_folder()).rglob("secret.txt"))


# --- what can be called ---


def test_only_endpoints_are_called_by_name(web):
    assert "no endpoint 'pressed': expected one of recommend, search" in call(web, "pressed", [[], None])
    assert "no endpoint 'nonsense'" in call(web, "nonsense", [])


def test_what_a_page_sends_is_small_and_of_its_functions(page, web):
    def join(**fields) -> str:
        return said_in(web.post("gradio_api/queue/join", json={"session_hash": "a stranger"} | fields))

    assert "no function 12345" in join(fn_index=12345, data=[])
    assert "fn_index is '1'" in join(fn_index="1", data=[])
    found = next(each for each, function in page.fns.items() if function.api_name == "found")
    assert "expected the list" in join(fn_index=found, data=[])
    assert "no page sends" in join(fn_index=found, data=[None, "a" * MAX_BODY_OF_PAGE])


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"action": "open", "item": "99"}, "item number 99 is outside the catalogue"),
        ({"action": "add", "item": "9" * 9000}, "expected the number of one"),
        ({"action": "add", "item": {"a": [1]}}, "expected the number of one"),
        ({"action": "add"}, "expected the number of one"),
        ({"action": "add", "item": "0", "stars": "9"}, "expected 1 to 5"),
        ({"action": "add", "item": "0", "stars": "NaN"}, "expected 1 to 5"),
    ],
)
def test_clicks_on_what_no_page_shows_are_refused_in_words(page, web, event, words):
    clicked = next(each for each, function in page.fns.items() if function.api_name == "clicked")
    sent = {"fn_index": clicked, "session_hash": "presser", "data": [None, None], "event_data": event}
    assert web.post("gradio_api/queue/join", json=sent).status_code == 200
    for line in web.get("gradio_api/queue/data", params={"session_hash": "presser"}).text.split("\n\n"):
        if "process_completed" in line:
            message = json.loads(line.removeprefix("data: "))
            assert not message["success"] and words in message["output"]["error"]
            return
    raise AssertionError("no answer")


def test_a_history_on_the_page_has_an_end():
    history = []
    for number in range(MAX_HISTORY_ITEMS):
        history = with_item(history, str(number))
    with pytest.raises(ValueError, match="has 100 items, and no more fit"):
        with_item(history, "another")
    assert with_item(history, "7", "3")[7] == {"item_id": "7", "rating": 3.0}
    assert [entry["item_id"] for entry in with_item(history, "7")][-1] == "7"


def test_a_body_that_comes_too_slowly_is_given_up(page, monkeypatch):
    monkeypatch.setattr(request_limits, "MAX_RECEIVE_SECONDS", 0.1)
    head = "POST /gradio_api/call/rate HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 9\n\n"
    with raw(page, head) as connection:
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_nothing_is_kept_of_what_a_program_sent(page, web):
    before = set(page.state_holder.session_data)
    assert call(web, "recommend", [[{"title": "A mug"}], 2]) == ""
    assert call(web, "explain", [HISTORY, {"title": "A mug"}]) == ""
    assert call(web, "recommend", [["m9"], 2])
    assert set(page.state_holder.session_data) <= before


def test_an_answer_that_nobody_asked_for_is_not_found(web):
    for where in ("call/recommend/unknown", "queue/data?session_hash=unknown"):
        assert "404" in web.get(f"gradio_api/{where}").text
    for where in ("static/" + "a" * 5000, "assets/" + "a" * 300, "static/%00"):
        assert web.get(where).status_code == 404


def test_requests_beside_the_queue_are_closed(web):
    for where in ("run/recommend", "api/recommend", "component_server", "process_recording", "vibe-edit", "deep_link"):
        assert web.post(f"gradio_api/{where}", json={"data": GOOD["recommend"]}).status_code == 404
    for where in ("monitoring", "monitoring/summary", "gradio_api/runs", "gradio_api/mcp/sse", "gradio_api/token"):
        assert web.get(where).status_code == 404
