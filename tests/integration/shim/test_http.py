"""HTTP as it is on the wire: order, limits, time, and what a peer may do wrong."""

from __future__ import annotations

import json
import time

import pytest

from tests.integration.shim.running import Shim, Wire, event, post_bytes, stored

LIMIT = 16 * 1024


def one_post(**more: object) -> tuple[str, bytes]:
    sent = event(**more)
    return sent["id"], post_bytes(json.dumps(sent).encode())


def test_keep_alive_serves_request_after_request(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        for _ in range(5):
            wire.send(one_post()[1])
            assert wire.reply().json == {"accepted": 1}
        wire.send(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.reply().status == 405
        wire.send(one_post()[1])
        assert wire.reply().status == 202


def test_pipelined_requests_are_answered_in_order(shim: Shim) -> None:
    ids, requests = zip(*(one_post() for _ in range(3)), strict=True)
    with Wire(shim.port) as wire:
        # The second, third and fifth are known without Kafka, and wait for those before them.
        wire.send(
            requests[0]
            + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
            + post_bytes(b"{}")
            + requests[1]
            + b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"
            + requests[2]
        )
        assert [wire.reply().status for _ in range(6)] == [202, 404, 400, 202, 405, 202]
    assert stored(shim, ids).keys() == set(ids)


def test_hundreds_of_pipelined_requests(shim: Shim) -> None:
    ids, requests = zip(*(one_post() for _ in range(300)), strict=True)
    with Wire(shim.port) as wire:
        wire.send(b"".join(requests))
        assert {wire.reply().status for _ in requests} == {202}
    assert stored(shim, ids).keys() == set(ids)


def test_a_request_may_come_byte_by_byte(shim: Shim) -> None:
    sent, data = one_post()
    with Wire(shim.port) as wire:
        for round_trip in range(2):  # the second time, the same head is already known
            for at in range(len(data)):
                wire.send(data[at : at + 1])
            assert wire.reply().status == 202, round_trip
    assert sent in stored(shim, [sent])


def test_the_same_head_cut_at_every_place(shim: Shim) -> None:
    _, data = one_post()
    with Wire(shim.port) as wire:
        for at in range(1, len(data), 7):
            wire.send(data + data[:at])
            assert wire.reply().status == 202
            wire.send(data[at:])
            assert wire.reply().status == 202


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_chunked(shim: Shim, size: int) -> None:
    sent = event()
    body = json.dumps(sent).encode()
    head = (
        b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    with Wire(shim.port) as wire:
        wire.send(head + encoded + b"0\r\n\r\n" + one_post()[1])
        assert [wire.reply().status, wire.reply().status] == [202, 202]
    assert sent["id"] in stored(shim, [sent["id"]])


def test_chunked_over_the_cap_is_413_before_its_end(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(
            b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(5):
            wire.send(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert wire.reply().status == 413
        assert wire.closed()


def test_413_from_the_stated_length_alone(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(
            b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n"
        )
        reply = wire.reply()
        assert (reply.status, reply.headers["Connection"]) == (413, "close")
        assert wire.closed()


def test_expect_100_continue(shim: Shim) -> None:
    sent = event()
    body = json.dumps(sent).encode()
    request = post_bytes(body, more="Expect: 100-continue\r\n")
    head, _, rest = request.partition(b"\r\n\r\n")
    with Wire(shim.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.reply().status == 100
        wire.send(rest)
        assert wire.reply().status == 202
    with Wire(shim.port) as wire:  # refused before the body is sent
        wire.send(head.replace(b"Content-Length: ", b"Content-Length: 9999") + b"\r\n\r\n")
        assert wire.reply().status == 413
    with Wire(shim.port) as wire:
        wire.send(head.replace(b"100-continue", b"200-ok") + b"\r\n\r\n")
        assert wire.reply().status == 417


def test_411_without_a_length(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.reply().status == 411


@pytest.mark.parametrize(
    "head",
    [
        b"GET /penstock.js HTTP/1.1\r\nX: " + b"x" * LIMIT + b"\r\n\r\n",
        b"GET /penstock.js HTTP/1.1\r\n"
        + b"".join(b"X-%d: y\r\n" % n for n in range(101))
        + b"\r\n",
        b"GET /penstock.js HTTP/1.1\r\nX: " + b"x" * (3 * LIMIT),  # and never ends
        b"GET /penstock.js HTTP/1.1\r\n" + b"X: y\r\n" * (3 * LIMIT // 6),
    ],
)
def test_431_for_a_head_that_is_too_large(shim: Shim, head: bytes) -> None:
    with Wire(shim.port) as wire:
        for at in range(0, len(head), 4096):
            wire.send(head[at : at + 4096])
        assert wire.reply().status == 431
        assert wire.closed()


def test_414_for_a_url_that_is_too_long(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.reply().status == 414


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_400_for_what_is_not_http(shim: Shim, data: bytes) -> None:
    with Wire(shim.port) as wire:
        wire.send(data)
        assert wire.reply().status == 400
        assert wire.closed()


def test_http_1_0_closes(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(b"GET /penstock.js HTTP/1.0\r\n\r\n")
        reply = wire.reply()
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        assert wire.closed()


def test_connection_close_is_obeyed(shim: Shim) -> None:
    body = json.dumps(event()).encode()
    with Wire(shim.port) as wire:
        wire.send(post_bytes(body, more="Connection: close\r\n") + one_post()[1])
        assert wire.reply().status == 202
        assert wire.closed()


def test_an_upgrade_is_not_taken_up(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(
            b"GET /penstock.js HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
        )
        assert wire.reply().status == 200
        assert wire.closed()


def test_head_has_no_body(shim: Shim) -> None:
    with Wire(shim.port) as wire:
        wire.send(b"HEAD /penstock.js HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = wire.reply(with_body=False)
        assert (reply.status, int(reply.headers["Content-Length"]) > 0) == (200, True)
        wire.send(one_post()[1])
        assert wire.reply().status == 202


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/events?key=demo-public HTTP/1.1\r\nHost:",
        b"P",
    ],
)
def test_408_for_a_request_that_does_not_end(shim: Shim, begun: bytes) -> None:
    with Wire(shim.port) as wire:
        began = time.monotonic()
        wire.send(begun)
        reply = wire.reply()
        assert (reply.status, reply.headers["Connection"]) == (408, "close")
        assert 1.4 < time.monotonic() - began < 5
        assert wire.closed()


def test_a_peer_that_ends_its_side_still_gets_its_answer(shim: Shim) -> None:
    sent, data = one_post()
    with Wire(shim.port) as wire:
        wire.send(data)
        wire.socket.shutdown(1)
        assert wire.reply().status == 202
        assert wire.closed()
    assert sent in stored(shim, [sent])


def test_a_peer_that_leaves_harms_nobody(shim: Shim) -> None:
    for _ in range(20):
        with Wire(shim.port) as wire:
            wire.send(one_post()[1])
    assert shim.post(event()).status == 202
