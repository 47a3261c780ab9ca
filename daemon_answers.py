"""Answers that are ready before anybody asks: serialised and compressed once, with a fresh head on every request.

A set of forecasts stands for minutes, but how old its data is changes with the clock. So the large part of an answer
is made once, plain and deflated, and only the head before it is written per request. Knows nothing of HTTP.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core

_GZIP_START = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflate, no name, no time, unknown system
_LEVEL = 6


def to_json(content: Any) -> bytes:
    """JSON of plain Python values; NaN and infinity, which JSON does not have, become null."""
    return pydantic_core.to_json(content, inf_nan_mode="null")


class ReadyAnswer:
    """A JSON object of which all but the first members is ready.

    Parameters
    ----------
    name : str
        Member that holds the items.
    items : sequence of bytes
        The items, serialised.
    rest : mapping
        Members after the items.
    """

    def __init__(self, name: str, items: Sequence[bytes], rest: Mapping[str, Any] | None = None) -> None:
        after = to_json(dict(rest))[1:-1] if rest else b""
        self._tail = b"," + to_json(name) + b":[" + b",".join(items) + b"]" + (b"," + after if after else b"") + b"}"
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._packed_tail = packer.compress(self._tail) + packer.flush()
        self._last: tuple[bytes, bytes] = (b"", b"")  # head and its gzipped answer; requests come many per second

    def plain(self, head: Mapping[str, Any]) -> bytes:
        """The whole answer; `head` has at least one member."""
        return to_json(dict(head))[:-1] + self._tail

    def gzipped(self, head: Mapping[str, Any]) -> bytes:
        """The whole answer as gzip (RFC 1952).

        The head is a deflate block of its own, flushed to a byte boundary, and the ready tail follows it.
        """
        start = to_json(dict(head))[:-1]
        last_start, last_answer = self._last
        if start == last_start:
            return last_answer
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed_head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
        checksum = zlib.crc32(self._tail, zlib.crc32(start))
        end = struct.pack("<II", checksum, (len(start) + len(self._tail)) & 0xFFFFFFFF)
        answer = _GZIP_START + packed_head + self._packed_tail + end
        self._last = (start, answer)
        return answer


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110, section 12.5.3)."""
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in {"gzip", "x-gzip", "*"}:
            quality = parameters.replace(" ", "").removeprefix("q=")
            return not quality or quality.strip("0.") != ""
    return False


def _self_check() -> None:
    import gzip
    import json

    answer = ReadyAnswer("items", [b"1", b'{"a":null}'], {"count": 2})
    expected = {"age": 3, "items": [1, {"a": None}], "count": 2}
    assert json.loads(answer.plain({"age": 3})) == expected
    for _ in range(2):
        assert json.loads(gzip.decompress(answer.gzipped({"age": 3}))) == expected
    assert accepts_gzip("br, gzip;q=0.5") and not accepts_gzip("gzip;q=0, br") and not accepts_gzip("")
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
