"""What a server may send before a line ends: the client library would keep all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

MAX_LINE_BYTES = 1 << 20


class _BoundedLines(httpx2.AsyncByteStream):
    """A response's bytes as they come, until a line of them grows too long."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        since_line_end = 0
        async for part in self._stream:
            end = part.rfind(b"\n")
            since_line_end = since_line_end + len(part) if end < 0 else len(part) - end - 1
            if since_line_end > MAX_LINE_BYTES:
                raise httpx2.RemoteProtocolError(f"a line of over {MAX_LINE_BYTES:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        # A few bytes could unfold to any number of them.
        raise httpx2.RemoteProtocolError("a compressed response, which was not asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _BoundedLines(response.stream)


def bounded_client(timeout_s: float) -> httpx2.AsyncClient:
    """A client whose responses raise httpx2.RemoteProtocolError where a line does not end."""
    return httpx2.AsyncClient(
        timeout=timeout_s,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [_bound]},
        follow_redirects=True,
    )
