"""What must hold for any bytes that a cache may give for an entry, as one function of bytes.

The first byte chooses what is done with the rest: ``r`` takes it as it is, ``m`` seals it and changes the
result in one place, ``p`` gives it to the decoder as if its seal had been right, ``v`` makes rows of it. Any
other byte chooses by its number. ``check`` runs under the fuzzer (``make fuzz``) and over the corpus
(``test_corpus.py``).

While it runs nothing that a pickle names is looked up but the types of rows: a fuzzer writes pickles, too.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
import pickletools
import struct
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

from cachalot.codecs import pickled
from cachalot.codecs.pickled import DecodeError, decode, decode_all, encode
from cachalot.core.envelope import STAMP_SIZE, BadEnvelope, Entry, derive_secret, open_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = b"k" * 16
SECRET = derive_secret("for the fuzzer only")
#: All that rows of Django's own fields are made of, beside the types that a pickle need not name.
KNOWN = frozenset(
    {
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("cachalot.codecs.pickled", "_view"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("uuid", "SafeUUID"),
        ("uuid", "UUID"),
    }
)
#: A pickle may ask for memory by one number. What was sealed here does not.
_LARGEST_NUMBER = 1 << 16


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


def _guarded(data: Any) -> Any:
    return _Unpickler(io.BytesIO(data)).load()


def _asks_for_memory(frame: bytes) -> bool:
    try:
        for code, argument, _at in pickletools.genops(frame):
            if code.name in {"BYTEARRAY8", "LONG_BINPUT", "PUT"} and (
                isinstance(argument, int) and argument > _LARGEST_NUMBER
            ):
                return True
    except Exception:  # noqa: BLE001 - the decoder will say what is wrong with it
        # A length that is too large for what follows is refused here, before memory is taken for it.
        return b"\x96" in frame or b"r" in frame
    return False


def check(data: bytes) -> None:
    """Fail unless everything that is promised about these bytes holds.

    :param data: a byte for what is done, and what it is done with.
    """
    if not data:
        return
    checks = {"r": check_foreign, "m": check_changed, "p": check_payload, "v": check_rows}
    chosen = checks.get(chr(data[0])) or list(checks.values())[data[0] % len(checks)]
    with mock.patch.object(pickled.pickle, "loads", _guarded):
        chosen(data[1:])


def check_foreign(data: bytes) -> None:
    """Bytes that were not sealed are refused with one error, and none of them is unpickled.

    :param data: what the cache gave.
    """
    head = struct.pack(">BB", 0xCA, 1)
    with mock.patch.object(pickled.pickle, "loads", _never):
        for foreign in (data, head + data, bytearray(data), data.decode("latin-1")):
            _is_refused(foreign)


def check_changed(data: bytes) -> None:
    """An entry opens as it was sealed, and with any change anywhere it does not open.

    :param data: 2 bytes for the place, 1 for the change, the stamp, 4 bytes for the time, and the payload.
    """
    place, change = struct.unpack(">HB", data[:3].ljust(3, b"\0"))
    stamp = data[3 : 3 + STAMP_SIZE].ljust(STAMP_SIZE, b"\0")
    saved = int.from_bytes(data[3 + STAMP_SIZE : 7 + STAMP_SIZE], "big")
    entry = Entry(stamp, saved, data[7 + STAMP_SIZE :])
    sealed = seal(KEY, SECRET, entry)
    assert open_sealed(KEY, SECRET, sealed) == entry
    place %= len(sealed)
    changed = bytearray(sealed)
    changed[place] ^= change or 1
    with mock.patch.object(pickled.pickle, "loads", _never):
        for other in (
            bytes(changed),
            sealed[:place],
            sealed + bytes([change]),
            sealed[place:] + sealed[:place],
        ):
            if other != sealed:
                _is_refused(other)
        for key in (KEY[:-1], KEY + b"\0", bytes([KEY[0] ^ (change or 1)]) + KEY[1:]):
            _is_refused(sealed, key)


def check_payload(data: bytes) -> None:
    """The decoder gives values or one error, and only types of rows are looked up.

    :param data: frames, or what somebody took for them.
    """
    if _asks_for_memory(data) or _asks_for_memory(data[4:]):
        return
    framed = len(data).to_bytes(4, "big") + data
    for frames in (data, framed):
        try:
            values = decode_all(frames)
        except DecodeError:
            continue
        assert isinstance(values, list)
    _gives_a_value_or_one_error(framed, decode)


def check_rows(data: bytes) -> None:
    """Rows come back equal in type and in value, as one frame and as several, and no part of them does.

    :param data: what the rows are made of.
    """
    rows = _rows(data)
    frame = encode(rows)
    assert _same(decode(frame), rows)
    assert _same(decode_all(b"".join(encode([row]) for row in rows)), [[row] for row in rows])
    cut = frame[: len(data) % len(frame)]
    if cut:
        _is_not_decoded(cut)
    _is_not_decoded(frame + data[:3].ljust(1, b"\0"))


def _is_refused(data: object, key: bytes = KEY) -> None:
    try:
        open_sealed(key, SECRET, data)
    except BadEnvelope:
        return
    raise AssertionError(f"{data!r} was opened")


def _is_not_decoded(data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        return
    raise AssertionError(f"{data!r} was decoded")


def _gives_a_value_or_one_error(data: bytes, decoder: Callable[[bytes], object]) -> None:
    try:
        decoder(data)
    except DecodeError:
        return


def _never(data: Any) -> Any:
    raise AssertionError("unpickled without a right seal")


def _rows(data: bytes) -> list[tuple[Any, ...]]:
    """Rows of cells; each byte chooses the type of one cell, and those after it are its value."""
    cells: list[Any] = []
    at = 0
    while at < len(data):
        kind, part = data[at], data[at + 1 : at + 9]
        at += 1 + len(part)
        cells.append(_CELLS[kind % len(_CELLS)](part))
    return [tuple(cells[start : start + 3]) for start in range(0, len(cells), 3)]


def _number(part: bytes) -> int:
    return int.from_bytes(part, "big", signed=True)


def _day(part: bytes) -> dt.date:
    return dt.date.fromordinal(1 + _number(part) % dt.date.max.toordinal())


def _moment(part: bytes) -> dt.datetime:
    zone = dt.timezone(dt.timedelta(minutes=part[0] - 128)) if part and part[0] % 2 else None
    return dt.datetime.combine(
        _day(part), dt.time(part[0] % 24 if part else 0, tzinfo=zone, fold=len(part) % 2)
    )


_CELLS: list[Callable[[bytes], Any]] = [
    lambda part: None,
    _number,
    bool,
    lambda part: struct.unpack(">d", part.ljust(8, b"\0"))[0],
    lambda part: part.decode("latin-1"),
    bytes,
    memoryview,
    bytearray,
    lambda part: Decimal(_number(part)).scaleb(-len(part)),
    lambda part: uuid.UUID(bytes=part.ljust(16, b"\0")),
    _day,
    _moment,
    lambda part: dt.timedelta(microseconds=_number(part) >> 8),
    lambda part: {"key": [part.decode("latin-1"), len(part)]},
]


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
