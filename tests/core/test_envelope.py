"""Only what was sealed for this key with this secret is opened."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachalot.core.envelope import FORMAT, BadEnvelope, Entry, derive_secret, open_sealed, seal

KEYS = st.binary(max_size=40)
SECRETS = st.binary(min_size=1, max_size=64)
ENTRIES = st.builds(
    Entry, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), st.binary(max_size=200)
)

KEY, SECRET = b"k" * 32, derive_secret("a secret")
ENTRY = Entry(b"s" * 16, 1500, b"rows")


class TestRoundTrip:
    """What was sealed is opened as it was."""

    @given(KEYS, SECRETS, ENTRIES)
    def test_same_key_and_secret(self, key: bytes, secret: bytes, entry: Entry) -> None:
        """With the key and the secret that sealed it, an entry comes back equal."""
        assert open_sealed(key, secret, seal(key, secret, entry)) == entry

    @pytest.mark.parametrize(
        ("given_us", "kept_us"), [(2**32, 2**32 - 1), (10**18, 2**32 - 1), (-1, 0), (0, 0)]
    )
    def test_time_beyond_its_field(self, given_us: int, kept_us: int) -> None:
        """A time that does not fit is kept as the nearest that does."""
        entry = open_sealed(KEY, SECRET, seal(KEY, SECRET, Entry(b"s" * 16, given_us, b"")))
        assert entry.saved_us == kept_us

    def test_size_of_the_frame(self) -> None:
        """The frame adds 40 bytes, and says its format in the second."""
        data = seal(KEY, SECRET, ENTRY)
        assert len(data) == 40 + len(ENTRY.payload)
        assert data[1] == FORMAT


class TestRefused:
    """Everything else is refused."""

    @given(KEYS, SECRETS, ENTRIES, st.data())
    def test_one_byte_changed(self, key: bytes, secret: bytes, entry: Entry, data: st.DataObject) -> None:
        """An entry with any byte changed is refused."""
        sealed = bytearray(seal(key, secret, entry))
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(BadEnvelope):
            open_sealed(key, secret, bytes(sealed))

    def test_each_bit_changed(self) -> None:
        """No single bit of an entry is outside the seal."""
        sealed = seal(KEY, SECRET, ENTRY)
        for place in range(len(sealed)):
            for bit in range(8):
                changed = bytearray(sealed)
                changed[place] ^= 1 << bit
                with pytest.raises(BadEnvelope):
                    open_sealed(KEY, SECRET, bytes(changed))

    @given(KEYS, SECRETS, ENTRIES, st.data())
    def test_cut_or_lengthened(self, key: bytes, secret: bytes, entry: Entry, data: st.DataObject) -> None:
        """A beginning of an entry is refused, and so is an entry with something behind it."""
        sealed = seal(key, secret, entry)
        cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
        for other in (cut, sealed + data.draw(st.binary(min_size=1, max_size=4)), sealed + sealed):
            with pytest.raises(BadEnvelope):
                open_sealed(key, secret, other)

    @given(KEYS, KEYS, SECRETS, SECRETS, ENTRIES)
    def test_moved_to_another_key_or_secret(
        self, key: bytes, other_key: bytes, secret: bytes, other_secret: bytes, entry: Entry
    ) -> None:
        """An entry is refused under another key and under another secret."""
        sealed = seal(key, secret, entry)
        if other_key != key:
            with pytest.raises(BadEnvelope):
                open_sealed(other_key, secret, sealed)
        # BLAKE2b fills a short secret with zeros; ours all have 64 bytes.
        if other_secret.ljust(64, b"\0") != secret.ljust(64, b"\0") or len(other_secret) != len(secret):
            with pytest.raises(BadEnvelope):
                open_sealed(key, other_secret, sealed)

    def test_border_between_key_and_entry(self) -> None:
        """Bytes cannot wander from the key into the entry."""
        sealed = seal(KEY, SECRET, ENTRY)
        for key, data in [(KEY + sealed[:1], sealed[1:]), (KEY[:-1], KEY[-1:] + sealed), (b"", KEY + sealed)]:
            with pytest.raises(BadEnvelope):
                open_sealed(key, SECRET, data)

    def test_parts_of_two_entries(self) -> None:
        """The stamp of one entry with the payload of another is refused."""
        one = seal(KEY, SECRET, ENTRY)
        other = seal(KEY, SECRET, Entry(b"t" * 16, 1500, b"ROWS"))
        for mixed in (one[:22] + other[22:], one[:38] + other[38:], other[:22] + one[22:38] + other[38:]):
            with pytest.raises(BadEnvelope):
                open_sealed(KEY, SECRET, mixed)

    @given(st.binary(max_size=80))
    def test_foreign_bytes(self, data: bytes) -> None:
        """Bytes that nobody sealed are refused, also behind a right beginning."""
        for foreign in (data, seal(KEY, SECRET, ENTRY)[:2] + data):
            with pytest.raises(BadEnvelope):
                open_sealed(KEY, SECRET, foreign)

    @pytest.mark.parametrize(
        "data", [None, 1, "text", [], {}, bytearray(seal(KEY, SECRET, ENTRY)), ENTRY], ids=repr
    )
    def test_other_types(self, data: Any) -> None:
        """A cache may give back anything; only bytes are looked at."""
        with pytest.raises(BadEnvelope):
            open_sealed(KEY, SECRET, data)

    def test_another_format(self) -> None:
        """An entry of another format is refused by name, as after an upgrade."""
        data = bytearray(seal(KEY, SECRET, ENTRY))
        data[1] = FORMAT + 1
        with pytest.raises(BadEnvelope, match="format"):
            open_sealed(KEY, SECRET, bytes(data))


class TestMisuse:
    """Mistakes of the caller are no misses."""

    def test_stamp_of_another_length(self) -> None:
        """A stamp is never cut or filled up in silence."""
        for stamp in (b"", b"s" * 15, b"s" * 17):
            with pytest.raises(ValueError, match="stamp"):
                seal(KEY, SECRET, Entry(stamp, 0, b""))

    def test_no_secret(self) -> None:
        """Without a secret anybody could seal."""
        with pytest.raises(ValueError, match="secret"):
            seal(KEY, b"", ENTRY)
        for empty in ("", b""):
            with pytest.raises(ValueError, match="secret"):
                derive_secret(empty)

    def test_secret_from_text_or_bytes(self) -> None:
        """The secret follows from the project's key alone, and is not the key."""
        assert derive_secret("kéy") == derive_secret("kéy".encode())
        assert derive_secret("a") != derive_secret("b")
        assert len(derive_secret("a")) == 64
