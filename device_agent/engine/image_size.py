"""How large an encoded image will be, from its header: a few kilobytes can unfold to gigabytes."""

from __future__ import annotations

MAX_PIXELS = 16 << 20
"""48 MiB in memory."""

_PNG, _JPEG, _GIF, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"
_NO_FRAME = (0xC4, 0xC8, 0xCC)
"""Among the markers that look like a JPEG frame's."""


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, JPEG, GIF or BMP; None where it is none, or is cut short."""
    if data.startswith(_PNG) and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(_GIF) and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data.startswith(_BMP) and len(data) >= 26:
        if int.from_bytes(data[14:18], "little") == 12:
            return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
        width = int.from_bytes(data[18:22], "little", signed=True)
        # A negative height is that of an image whose first row is the uppermost.
        return abs(width), abs(int.from_bytes(data[22:26], "little", signed=True))
    return _jpeg_size(data) if data.startswith(_JPEG) else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The largest of the sizes that a JPEG's frames state."""
    largest: tuple[int, int] | None = None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and at + 9 <= len(data):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            width = int.from_bytes(data[at + 7 : at + 9], "big")
            if largest is None or width * height > largest[0] * largest[1]:
                largest = width, height
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return largest
