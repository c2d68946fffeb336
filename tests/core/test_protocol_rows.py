"""The protocol for rows, step by step: tags found in the rows, signs of releases, tokens that are removed."""

from __future__ import annotations

from cachalot.core import protocol
from cachalot.core.envelope import Entry
from cachalot.core.protocol import CREATED, UNSIGNED, Found, Keys, WriteKeys, stamp
from cachalot.core.steps import Commit, Committed, Create, Done, GetMany, Mark
from tests.core.test_protocol import Stored, draws, opened, played

LOOSE = Keys("e", ("a",), "w", loose=("any",))
BEFORE = {"a": "1", "any": "2"}
SIGNED = Keys("e", ("whole",), "w", signs={"whole": "#ours"})
WRITE = WriteKeys(("row",), "w", signs={"whole": "#ours"}, passing=frozenset({"row"}), epoch=("epoch", "E"))


def settled(*answers, more=("row",), fresh="567"):
    """Play ``settle`` with these answers."""
    return played(protocol.settle(LOOSE, BEFORE, more, draws(*fresh)), *answers)


class TestSettling:
    """Tokens of tags that are known only when the query has run."""

    def test_tokens_are_read_before_the_loose_one(self):
        """What was read of the rows is as old as the loose tag says only if that is read behind it."""
        asked, now = settled({"row": "3", "any": "2"})
        assert asked == [GetMany(("row", "any"))]
        assert now == stamp(("a", "row"), ["1", "3"])

    def test_loose_tag_has_changed(self):
        """Somebody has written to the table since: the rows may be older than their tokens."""
        assert settled({"row": "3", "any": "4"})[1] is None
        assert settled({"row": "3"})[1] is None

    def test_row_is_marked(self):
        """A commit that has marked a row may not have reached the loose tag yet."""
        assert settled({"row": "!x;9,", "any": "2"})[1] is None

    def test_absent_tokens_are_created_and_the_loose_one_is_read_behind_them(self):
        """What is created in between is as good, if nobody has written by then."""
        asked, now = settled({"any": "2"}, {"row": CREATED + "5"}, {"any": "2"})
        assert asked[1:] == [
            Create(("w", "6"), (("row", CREATED + "5"),), frozenset({"row"})),
            GetMany(("any",)),
        ]
        assert now == stamp(("a", "row"), ["1", CREATED + "5"])
        assert settled({"any": "2"}, {"row": CREATED + "5"}, {"any": "4"})[1] is None

    def test_another_server(self):
        """Tokens of two servers do not belong together."""
        assert settled({"row": "3", "any": "2", "@": "other"})[1] is None


class TestNamedTags:
    """Entries that name tags in the place of the loose ones."""

    @staticmethod
    def entry(more, *tokens):
        """Return an opener of an entry that names tags, and the stamp under these tokens."""
        now = stamp(("a", *more), tokens)
        names = tuple(name.encode() for name in more)
        return lambda _value: Entry(now, 0, b"", names)

    def test_guessed_tags_are_read_at_once(self):
        """Who has seen the entry before asks once."""
        keys = Keys("e", ("a",), "w", loose=("any",), guessed=("row",))
        got = {"e": Stored(b""), "a": "1", "any": "2", "row": "3"}
        steps = protocol.read(keys, self.entry(("row",), "1", "3"), draws(), _names)
        asked, answer = played(steps, got)
        assert asked == [GetMany(("e", "a", "any", "row"))]
        assert answer.found is Found.HIT

    def test_other_tags_are_read_behind_the_entry(self):
        """Who has not asks again; the loose tag does not matter."""
        got = {"e": Stored(b""), "a": "1", "any": "!w;9,"}
        steps = protocol.read(LOOSE, self.entry(("row",), "1", "3"), draws(), _names)
        asked, answer = played(steps, got, {"row": "3"})
        assert asked[1:] == [GetMany(("row",))]
        assert answer.found is Found.HIT

    def test_row_has_changed(self):
        """A token of a row that is another one ends the entry; what is stored next hangs on the loose tag."""
        got = {"e": Stored(b""), "a": "1", "any": "2"}
        steps = protocol.read(LOOSE, self.entry(("row",), "1", "3"), draws(), _names)
        answer = played(steps, got, {"row": "4"})[1]
        assert answer.found is Found.CHANGED
        assert answer.stamp == stamp(("a", "any"), ["1", "2"])


class TestSigns:
    """Releases that disagree about the keys of a table."""

    def test_reader_under_another_sign(self):
        """Finer tags are not used under the sign of somebody else, or of nobody."""
        for token in ("1#theirs", f"1{UNSIGNED}", "1"):
            answer = played(protocol.read(SIGNED, opened, draws()), {"whole": token})[1]
            assert answer.found is Found.OUTDATED

    def test_reader_signs_what_it_creates(self):
        """The one who draws the token says which keys it stands for."""
        asked, answer = played(protocol.read(SIGNED, opened, draws(*"12")), {}, {"whole": f"{CREATED}2#ours"})
        assert asked[1].tokens == (("whole", f"{CREATED}2#ours"),)
        assert answer.found is Found.NEW
        answer = played(protocol.read(SIGNED, opened, draws(*"12")), {}, {"whole": "3#theirs"})[1]
        assert answer.found is Found.OUTDATED

    def test_writer_beside_its_own_sign(self):
        """Tags of rows are removed; nothing else is touched."""
        got = {"whole": "1#ours", "epoch": "E"}
        asked, anew = played(protocol.commit(WRITE, draws(*"123")), got, Committed.YES, got)
        watched = ("whole", "epoch")
        assert asked == [
            Mark(("row",), "1", watched),
            Commit(),
            Done("1", ("w", "2"), (("row", ""),), True, watched),
        ]
        assert anew is False

    def test_writer_beside_another_sign(self):
        """All finer results of the other release are dark before the commit, and dead after it."""
        got = {"whole": "1#theirs", "epoch": "E"}
        asked, _ = played(protocol.commit(WRITE, draws(*"12345")), got, {}, Committed.YES, {"epoch": "E"})
        assert asked[1] == Mark(("whole",), "1")
        assert asked[2] == Commit()
        assert asked[3].tokens == (("row", ""), ("whole", f"3{UNSIGNED}"))
        assert asked[3].brief == {"whole"}

    def test_sign_that_appears_during_the_commit(self):
        """What was signed by another release meanwhile ends when the commit has."""
        late = {"whole": "9#theirs", "epoch": "E"}
        asked, anew = played(protocol.commit(WRITE, draws(*"12345")), {"epoch": "E"}, Committed.YES, late, {})
        assert asked[-1].tokens == (("whole", f"3{UNSIGNED}"),)
        assert asked[-1].committed
        assert anew is True

    def test_writer_that_knows_an_older_schema(self):
        """Who has not heard of DDL ends all finer results of its tables, and learns the schema anew."""
        got = {"whole": "1#ours", "epoch": "F"}
        asked, anew = played(
            protocol.commit(WRITE, draws(*"1234")), got, {}, Committed.YES, {"epoch": "F"}, {}
        )
        assert asked[1] == Mark(("whole",), "1")
        assert ("whole", "") in asked[3].tokens
        assert anew is True


def _names(names):
    """Return keys for names."""
    return tuple(name.decode() for name in names)
