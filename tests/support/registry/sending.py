"""Putting an answer on the wire, with all that goes wrong on the way."""

import asyncio
import socket
import struct
import time
from collections.abc import Sequence

from aiohttp import web

from tests.support.registry.answers import Answer, Before, Request
from tests.support.registry.faults import Rule

_PIECE = 1 << 18
_FILLER = bytes(1 << 16)
_BEAT = 0.02  # seconds between two pieces of a throttled answer


async def send(http: web.BaseRequest, answer: Answer, log: Request, rules: Sequence[Rule]) -> web.StreamResponse:
    """Send ``answer``, counting in ``log``. ``rules`` are those that hit it: lifting them ends its stalls."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.before is Before.STALL:
        await _stalled(rules)
    if answer.before is Before.HANG_UP:
        _close(http, reset=answer.reset)
        return response
    if answer.announce is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = answer.announce
    await response.prepare(http)
    if http.method != "HEAD":
        await _send_body(http, response, answer, log, rules)
    return response


async def _send_body(
    http: web.BaseRequest, response: web.StreamResponse, answer: Answer, log: Request, rules: Sequence[Rule]
) -> None:
    began, position, length = time.monotonic(), 0, answer.stop - answer.start
    piece_size = _PIECE if answer.rate is None else max(1, min(_PIECE, int(answer.rate * _BEAT)))
    while position < length or position in (answer.stall, answer.cut):
        if answer.stall == position:
            await _flush(http, log, response)
            await _stalled(rules)
            answer.stall = None
            continue
        if answer.cut == position:
            break
        marks = [mark for mark in (answer.stall, answer.cut) if mark is not None and mark > position]
        upto = min(position + piece_size, length, *marks)
        piece = answer.body.read(answer.start + position, upto - position)
        await response.write(_flipped(piece, answer.start + position, answer.flips))
        position += len(piece)
        log.sent += len(piece)
        if answer.rate is not None:
            await asyncio.sleep(began + position / answer.rate - time.monotonic())
        elif position % (4 * _PIECE) == 0:
            await asyncio.sleep(0)  # let the other connections have their turn
    if answer.cut == position:
        await _flush(http, log, response)
        _close(http, reset=answer.reset)
    else:
        await _overrun(http, response, answer, log)


async def _overrun(http: web.BaseRequest, response: web.StreamResponse, answer: Answer, log: Request) -> None:
    sent = 0
    past_the_length = answer.announce == answer.stop - answer.start
    while sent < answer.filler:
        filler = _FILLER[: answer.filler - sent]
        if past_the_length:  # aiohttp itself never sends more than it announced
            transport = http.transport
            if transport is None or transport.is_closing():
                break
            transport.write(filler)
            await asyncio.sleep(0.001 if transport.get_write_buffer_size() else 0)
            while transport.get_write_buffer_size() > _PIECE and not transport.is_closing():
                await asyncio.sleep(0.01)
        else:
            await response.write(filler)
        sent += len(filler)
        log.sent += len(filler)
    if answer.filler and past_the_length:
        _close(http, reset=False)


async def _stalled(rules: Sequence[Rule]) -> None:
    for rule in rules:
        await rule.lifted.wait()


async def _flush(http: web.BaseRequest, log: Request, response: web.StreamResponse) -> None:
    """Until all that was written is in the kernel's hands."""
    if log.sent == 0:
        await response.write(b"")  # aiohttp keeps the head back until the first bytes of the body
    while (
        (transport := http.transport) is not None and transport.get_write_buffer_size() and not transport.is_closing()
    ):
        await asyncio.sleep(0.002)


def _close(http: web.BaseRequest, *, reset: bool) -> None:
    transport = http.transport
    if transport is None:
        return
    if reset:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


def _flipped(piece: memoryview, offset: int, flips: set[int]) -> bytes | memoryview:
    hit = [flip - offset for flip in flips if offset <= flip < offset + len(piece)]
    if not hit:
        return piece
    changed = bytearray(piece)
    for index in hit:
        changed[index] ^= 1
    return bytes(changed)
