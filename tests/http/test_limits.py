"""What is refused before it is read, or waited for: on raw sockets, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import KEY, MODEL, PATIENCE_S, Serve, Served

SOON = 0.2
"""A time-out that is meant to pass."""


class Wire:
    """A connection on which anything can be said."""

    def __init__(self, served: Served) -> None:
        self._socket = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, text: str | bytes) -> None:
        self._socket.sendall(text.encode() if isinstance(text, str) else text)

    def hear(self) -> bytes:
        """What has come, at least a byte unless the other side has closed."""
        return self._socket.recv(1 << 16)

    def hear_to_the_end(self) -> bytes:
        """All that comes until the other side closes."""
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.hear():
                heard += piece
        return heard

    def hear_all(self) -> tuple[int, str]:
        """The status and the message of an answer, after which the other side closed."""
        heard = self.hear_to_the_end()
        if not heard:
            return 0, ""
        head, _, body = heard.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]["message"]


def head(*headers: str, key: str | None = KEY, path: str = "/v1/chat/completions") -> str:
    shown = [] if key is None else [f"Authorization: Bearer {key}"]
    lines = [f"POST {path} HTTP/1.1", "Host: board", "Content-Type: application/json"]
    return "\r\n".join([*lines, *shown, *headers, "", ""])


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with Wire(served) as wire:
        yield wire


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(wire: Wire) -> None:
    wire.say(head("Content-Length: 524288000"))
    assert wire.hear_all() == (413, "the body has over 16,777,216 bytes, more than are taken")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/metrics", "/openapi.json", "/nowhere"])
@pytest.mark.parametrize("key", [None, "another"])
def test_without_a_key_no_body_is_read(wire: Wire, key: str | None, path: str) -> None:
    wire.say(head("Content-Length: 524288000", key=key, path=path))
    assert wire.hear_all()[0] == 401


def test_a_body_in_chunks_is_cut_off_at_the_limit(serve: Serve, key_file: Path) -> None:
    limits = {"body_bytes": 100_000, "bodies_bytes": 100_000}
    with Wire(serve(api_key_file=key_file, limits=limits)) as wire:
        wire.say(head("Transfer-Encoding: chunked"))
        # Never ended: the answer does not wait for that.
        for _ in range(2):
            wire.say(b"%x\r\n%b\r\n" % (60_000, b"x" * 60_000))
        assert wire.hear_all()[0] == 413


def test_bodies_are_bounded_together(serve: Serve, key_file: Path) -> None:
    limits = {"body_bytes": 100_000, "bodies_bytes": 100_000}
    server = serve(api_key_file=key_file, limits=limits)
    with Wire(server) as first:
        first.say(head("Content-Length: 90000", "Expect: 100-continue"))
        assert b"100" in first.hear()
        first.say(b" " * 80_000)

        def is_refused() -> bool:
            with Wire(server) as second:
                second.say(head("Content-Length: 90000", "Expect: 100-continue"))
                return b"429" in second.hear()

        # As long as the first body is on its way, the second is let in.
        assert any(is_refused() for _ in range(1000))


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30])
def test_a_length_that_is_no_number_is_refused(wire: Wire, length: str) -> None:
    wire.say(head(f"Content-Length: {length}"))
    heard = wire.hear()
    assert heard.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


@pytest.mark.parametrize("begin", ["POST /v1/chat/com", head("X-A: b")[:-2], "\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(begin: str, serve: Serve) -> None:
    with Wire(serve(limits={"header_timeout_s": SOON})) as wire:
        wire.say(begin)
        status, message = wire.hear_all()
    assert status == 408
    assert "headers did not come within 0.2 s" in message


def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    with Wire(serve(limits={"header_timeout_s": SOON})) as wire:
        assert wire.hear_all() == (0, "")


def test_neither_is_a_second_request_waited_for(serve: Serve) -> None:
    with Wire(serve(limits={"header_timeout_s": SOON})) as wire:
        wire.say("GET /health HTTP/1.1\r\nHost: board\r\n\r\n")
        assert wire.hear().startswith(b"HTTP/1.1 200")
        wire.say("GET /hea")
        assert wire.hear_all()[0] == 408


def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    with Wire(serve(limits={"body_timeout_s": SOON})) as wire:
        wire.say(head("Content-Length: 1000", key=None) + "{")
        status, message = wire.hear_all()
    assert status == 408
    assert "1 bytes of the body" in message


def test_an_answer_that_nobody_reads_is_not_kept_for_ever(serve: Serve) -> None:
    requests = 2000
    server = serve(limits={"write_timeout_s": SOON, "connections": 1})
    with Wire(server) as wire:
        # More than the buffers of both sides hold together.
        wire.say("GET /openapi.json HTTP/1.1\r\nHost: board\r\n\r\n" * requests)
        deadline_s = time.monotonic() + PATIENCE_S
        while httpx.get(f"{server.url}/health").status_code == 503:
            # Its place is not free yet.
            assert time.monotonic() < deadline_s
        answers = wire.hear_to_the_end().count(b"HTTP/1.1 200")
    assert answers < requests


@pytest.mark.parametrize(
    "headers",
    [
        "GET /health HTTP/1.1\r\nX-Long: " + "a" * 40_000 + "\r\n\r\n",
        "GET /health HTTP/1.1\r\nX-Endless: " + "a" * 40_000,
        "GET /" + "a" * 40_000 + " HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\n" + "X: y\r\n" * 10_000,
    ],
    ids=["one", "unfinished", "path", "many"],
)
def test_headers_are_bounded(headers: str, wire: Wire) -> None:
    wire.say(headers)
    assert wire.hear_all() == (431, "the headers have over 32,768 bytes")


def test_connections_that_ask_nothing_give_way_to_those_that_do(serve: Serve) -> None:
    server = serve(limits={"connections": 2})
    ask = "GET /health HTTP/1.1\r\nHost: board\r\n\r\n"
    with Wire(server) as silent, Wire(server) as between_two:
        between_two.say(ask)
        assert between_two.hear().startswith(b"HTTP/1.1 200")
        with Wire(server) as third, Wire(server) as fourth:
            for closed, new in ((silent, third), (between_two, fourth)):
                new.say(ask)
                assert new.hear().startswith(b"HTTP/1.1 200")
                assert b"HTTP/" not in closed.hear_to_the_end()


def test_connections_that_are_answered_are_bounded(serve: Serve) -> None:
    server = serve(limits={"connections": 2})
    with Wire(server) as first, Wire(server) as second:
        for wire in (first, second):
            wire.say(head("Content-Length: 9", "Expect: 100-continue", key=None))
            assert b"100" in wire.hear()
        with Wire(server) as third:
            assert third.hear_all() == (503, "2 requests are being answered already")


def test_requests_of_one_caller_are_bounded_and_others_are_not(
    serve: Serve, tmp_path: Path
) -> None:
    for name in ("ann", "bob"):
        (tmp_path / name).write_text(f"key-of-{name}")
    keys = {name: tmp_path / name for name in ("ann", "bob")}
    server = serve(api_keys=keys, limits={"requests_of_a_caller": 1})
    with Wire(server) as wire:
        wire.say(head("Content-Length: 9", "Expect: 100-continue", key="key-of-ann"))
        # Its body is being read: it counts from here on.
        assert b"100" in wire.hear()
        url = f"{server.url}/v1/models"
        refused = httpx.get(url, headers={"Authorization": "Bearer key-of-ann"})
        assert refused.status_code == 429
        assert "1 requests of ann are being answered" in refused.json()["error"]["message"]
        assert httpx.get(url, headers={"Authorization": "Bearer key-of-bob"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 deep"),
        (b'{"model": "a", "model": "b"}', "the key 'model' is written twice"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a number has 5000 digits"),
        (b'{"temperature": 1e999}', "the number 1e999 is too large"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"model": "\xff"}', "not UTF-8: byte 11"),
        (b'{"model": "\\ud800"}', "half of a surrogate pair"),
        (b"[" + b"{}," * 500_000 + b"{}]", "elements and fields: at most 400,000"),
    ],
)
def test_json_that_is_not_sane_is_refused(body: bytes, says: str, served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": [{"role": "user", "content": "a"}] * 1025}, "messages"),
        ({"messages": [{"role": "user", "content": "a" * (2**20 + 1)}]}, "messages.0.content"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"model": "a" * 257}, "model"),
    ],
)
def test_counts_and_lengths_are_bounded_by_name(
    change: dict[str, object], says: str, served: Served
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], **change}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
