"""The byte frame of an entry, and the seal that is checked before anything in it is believed.

::

    magic 1 | format 1 | stamp 16 | saved_us 4, big-endian | names 2 | seal 16 | names of tags, 16 each |
    payload

The seal is a keyed BLAKE2b over the length of the cache key, the cache key, the first 24 bytes and all that
follows it. So whoever can write to the cache but does not know the secret cannot make an entry, nor change
one, nor move one to another key: unpickling is safe from what others put into a shared cache. An entry
whose seal is right is as it was made; that it is still true is said by its stamp, not by the seal.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from hashlib import blake2b

FORMAT: int = 2
STAMP_SIZE = 16
_MAGIC = 0xCA
_SEAL_SIZE = 16
NAME_SIZE = 16
_HEAD = struct.Struct(f">BB{STAMP_SIZE}sIH")
_KEY_LENGTH = struct.Struct(">I")
_PAYLOAD_AT = _HEAD.size + _SEAL_SIZE
_MAX_SAVED = 2**32 - 1


class BadEnvelope(ValueError):
    """The bytes are not an entry that was sealed for this key with this secret.

    .. versionadded:: 3.0
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored for one read.

    :param stamp: 16 bytes that stand for the tokens of everything the read depends on.
    :param saved_us: microseconds the database took when the entry was made; kept up to 2³² - 1 (71 minutes).
    :param payload: the rows, encoded.
    :param more: names of tags that the stamp holds beside those that follow from the read; 16 bytes each, at
        most 65,535. Which they are was seen in the rows.

    .. versionadded:: 3.0
    """

    stamp: bytes
    saved_us: int
    payload: bytes
    more: tuple[bytes, ...] = ()


def derive_secret(secret_key: str | bytes) -> bytes:
    """Return the secret of the seals.

    :param secret_key: the ``SECRET_KEY`` of the project.
    :returns: 64 bytes, from which the key cannot be found.
    :raises ValueError: if it is empty.

    .. versionadded:: 3.0
    """
    if isinstance(secret_key, str):
        secret_key = secret_key.encode("utf-8", "surrogatepass")
    if not secret_key:
        raise ValueError("an empty key is no secret")
    return blake2b(secret_key, person=b"cachalot").digest()


def seal(key: bytes, secret: bytes, entry: Entry) -> bytes:
    """Return ``entry`` as bytes that only :func:`open_sealed` with the same key and secret accepts.

    :param key: digest that names the entry in the cache.
    :param secret: 1 to 64 bytes.
    :raises ValueError: if the stamp is not 16 bytes long, or the secret is empty or too long.

    .. versionadded:: 3.0
    """
    if len(entry.stamp) != STAMP_SIZE:
        raise ValueError(f"a stamp has {STAMP_SIZE} bytes")
    saved = min(max(entry.saved_us, 0), _MAX_SAVED)
    head = _HEAD.pack(_MAGIC, FORMAT, entry.stamp, saved, len(entry.more))
    rest = b"".join((*entry.more, entry.payload))
    return b"".join((head, _seal_of(key, secret, head, rest), rest))


def open_sealed(key: bytes, secret: bytes, data: object) -> Entry:
    """Return the entry in ``data``.

    :param key: digest that names the entry in the cache.
    :param secret: 1 to 64 bytes.
    :param data: what the cache gave, of any type.
    :raises BadEnvelope: for anything that is not bytes made by :func:`seal` with the same key and secret.
    :raises ValueError: if the secret is empty or too long.

    .. versionadded:: 3.0
    """
    if not isinstance(data, bytes):
        raise BadEnvelope(f"{type(data).__name__} instead of bytes")
    if len(data) < _PAYLOAD_AT or data[0] != _MAGIC:
        raise BadEnvelope("not an entry")
    if data[1] != FORMAT:
        raise BadEnvelope(f"format {data[1]} instead of {FORMAT}")
    head, found, rest = data[: _HEAD.size], data[_HEAD.size : _PAYLOAD_AT], data[_PAYLOAD_AT:]
    if not hmac.compare_digest(found, _seal_of(key, secret, head, rest)):
        raise BadEnvelope("the seal is not ours")
    _, _, stamp, saved, names = _HEAD.unpack(head)
    if not names:
        return Entry(stamp, saved, rest)
    end = names * NAME_SIZE
    more = tuple(rest[at : at + NAME_SIZE] for at in range(0, end, NAME_SIZE))
    return Entry(stamp, saved, rest[end:], more)


def _seal_of(key: bytes, secret: bytes, head: bytes, rest: bytes) -> bytes:
    if not secret:
        raise ValueError("BLAKE2b without a secret seals nothing")
    # The length in front keeps a longer key with a shorter rest from meaning the same.
    mac = blake2b(
        _KEY_LENGTH.pack(len(key)) + key + head, key=secret, digest_size=_SEAL_SIZE, person=b"cachalot.entry"
    )
    mac.update(rest)
    return mac.digest()
