"""Parameters become bytes that no other parameters give."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import gc
import ipaddress
import json
import math
import struct
import uuid
import weakref
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.gis.db.backends.base.adapter import WKTAdapter
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.functional import SimpleLazyObject, lazy, lazystr
from django.utils.safestring import SafeString, mark_safe
from hypothesis import given
from hypothesis import strategies as st

from cachalot.analysis import params as subject
from cachalot.analysis.params import (
    UnencodableParameter,
    encode_param,
    encode_params,
    register_param,
    time_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(enum.Enum):
    """A plain enum."""

    RED = 1
    BLUE = "1"


class Size(models.IntegerChoices):
    """Choices that are integers."""

    SMALL = 1
    LARGE = 2


class Genre(models.TextChoices):
    """Choices that are strings."""

    CRIME = "1", "Crime"
    POEM = "2", "Poem"


class Bits(enum.IntFlag):
    """Flags, whose combinations may have no name."""

    A = 1
    B = 2


class Plain(str):  # noqa: SLOT000 - as people write it
    """A subclass of str without anything of its own."""


class Marked(str):
    """A subclass of str with a slot that an adapter could look at."""

    __slots__ = ("mark",)


class Money(Decimal):
    """A subclass of Decimal whose instances may carry a currency."""


class Age(int):
    """A subclass of int."""


Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - the untyped form is what drivers return


class Vector:
    """A type nothing is known about."""

    def __init__(self, *cells: float) -> None:
        self.cells = cells


class WiderVector(Vector):
    """A subclass of it."""


def short_dumps(value: Any) -> str:
    """Return JSON in another form than the default."""
    return json.dumps(value, separators=(",", ":"))


def same(a: Any, b: Any) -> bool:
    """Return whether two parameters are equal in type and value, judged without the module under test."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, dt.datetime | dt.time):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and all(
            one == other
            for one, other in [
                (a.fold, b.fold),
                (a.utcoffset(), b.utcoffset()),
                (type(a.tzinfo), type(b.tzinfo)),
                (getattr(a.tzinfo, "key", None), getattr(b.tzinfo, "key", None)),
            ]
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(one, other) for other in b) for one in a)
    if isinstance(a, WKTAdapter):
        return bool(a.wkt == b.wkt and a.srid == b.srid)
    if type(a).__module__.startswith(("psycopg.", "psycopg2.")):
        return same(state(a), state(b))
    return bool(a == b)


def state(wrapper: Any) -> list[Any]:
    """Return the fields of a wrapper of a driver."""
    names = ("obj", "dumps", "adapted", "_dumps", "addr", "_lower", "_upper", "_bounds", "_ranges")
    fields = [(name, getattr(wrapper, name)) for name in names if hasattr(wrapper, name)]
    return [
        (name, id(field) if callable(field) else field)
        for name, field in fields
        if not isinstance(field, MethodType)
    ]


ZONES: list[dt.tzinfo | None] = [
    None,
    dt.timezone.utc,
    dt.timezone(dt.timedelta(hours=1)),
    ZoneInfo("Europe/Paris"),
    ZoneInfo("Europe/Berlin"),
    ZoneInfo("UTC"),
]

# Few values of many types, so that pairs which nearly meet are frequent.
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf]),
    st.text("1,:'\\\x00ué\ud800", max_size=3),
    st.sampled_from(["", "1", "True", "None", "1.0", "b'1'", "i1:1", "t1:1"]),
    st.sampled_from([Plain("1"), mark_safe("1"), Age(1), Money("1"), Pair(1, 2), (1, 2), [1, 2]]),
    st.sampled_from([*Colour, *Size, *Genre, Bits.A, Bits.A | Bits.B]),
    st.sampled_from(
        [Decimal(1), Decimal("1.0"), Decimal("1E+1"), Decimal(10), Decimal("-0"), Decimal("NaN")]
    ),
    st.sampled_from([b"1", bytearray(b"1"), memoryview(b"1"), b"", memoryview(b"")]),
    st.sampled_from([dt.date(2026, 1, 1), dt.timedelta(1), dt.timedelta(0, 1, 1)]),
    st.builds(
        dt.datetime,
        st.just(2026),
        st.just(10),
        st.just(25),
        st.integers(1, 2),
        fold=st.integers(0, 1),
        tzinfo=st.sampled_from(ZONES),
    ),
    st.builds(dt.time, st.integers(0, 1), fold=st.integers(0, 1), tzinfo=st.sampled_from(ZONES)),
    st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2)]),
    st.sampled_from(
        [
            ipaddress.ip_address("10.0.0.1"),
            ipaddress.ip_interface("10.0.0.1"),
            ipaddress.ip_network("10.0.0.1"),
            ipaddress.ip_address("::1"),
            ipaddress.ip_address("::1%eth0"),
            ipaddress.ip_interface("::1/64"),
        ]
    ),
    st.builds(
        lambda wkt, srid: WKTAdapter(SimpleNamespace(wkt=wkt, srid=srid)), st.just("P"), st.integers(0, 1)
    ),
)


FUNCTIONS = [None, json.dumps, short_dumps, functools.partial(json.dumps, cls=DjangoJSONEncoder)]


def wrappers() -> list[Callable[[Any, Any, Any, str], Any]]:
    """Return how to make the wrappers of the installed drivers, from two values, a function and bounds."""
    found: list[Callable[[Any, Any, Any, str], Any]] = [lambda a, b, f, bounds: [a, b]]
    try:
        from psycopg import Binary
        from psycopg.types.json import Json, Jsonb
        from psycopg.types.multirange import Multirange
        from psycopg.types.numeric import Float8, Int2, Int8
        from psycopg.types.range import Int4Range, Range
    except ImportError:
        pass
    else:
        found += [
            lambda a, b, f, bounds: Json(a, f),
            lambda a, b, f, bounds: Jsonb(a, f),
            lambda a, b, f, bounds: Binary(a),
            lambda a, b, f, bounds: (Int2(1), Int8(-1), Float8(1)),
            lambda a, b, f, bounds: Int8(1),
            lambda a, b, f, bounds: Range(a, b, bounds),
            lambda a, b, f, bounds: Int4Range(a, b, bounds),
            lambda a, b, f, bounds: Range(empty=True),
            lambda a, b, f, bounds: Multirange([Range(a, b, bounds)]),
        ]
    try:
        from psycopg2 import Binary as Binary2
        from psycopg2.extras import Inet, NumericRange
        from psycopg2.extras import Json as Json2
        from psycopg2.extras import Range as Range2
    except ImportError:
        pass
    else:
        found += [
            lambda a, b, f, bounds: Json2(a, f),
            lambda a, b, f, bounds: Binary2(a),
            lambda a, b, f, bounds: Inet(a),
            lambda a, b, f, bounds: Range2(a, b, bounds),
            lambda a, b, f, bounds: NumericRange(a, b, bounds),
        ]
    return found


def wrap(make: Callable[..., Any], *parts: Any) -> Any:
    """Return what ``make`` makes of ``parts``."""
    return make(*parts)


WRAPPERS = st.sampled_from(wrappers())
HASHABLE = st.one_of(st.integers(-1, 2), st.sampled_from(["1", "", b"1", None]), st.booleans())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=2),
        st.dictionaries(HASHABLE, inner, max_size=2).map(OrderedDict),
        st.sets(HASHABLE, max_size=2),
        st.frozensets(HASHABLE, max_size=2),
        st.builds(wrap, WRAPPERS, inner, inner, st.sampled_from(FUNCTIONS), st.sampled_from(["[)", "[]"])),
    ),
    max_leaves=4,
)
PARAMS = st.lists(VALUES, max_size=3).map(tuple)


class TestInjective:
    """Different parameters give different bytes."""

    @given(st.lists(PARAMS, min_size=2, max_size=8))
    def test_lists_of_any_parameters(self, many: list[tuple[Any, ...]]) -> None:
        """Two lists of parameters encode alike exactly if they are equal in type and value."""
        encoded = [encode_params(one) for one in many]
        for i, one in enumerate(many):
            for j, other in enumerate(many):
                assert (encoded[i] == encoded[j]) == same(one, other), (one, other)

    @given(st.lists(VALUES, min_size=2, max_size=8))
    def test_single_parameters(self, values: list[Any]) -> None:
        """Two parameters encode alike exactly if they are equal in type and value."""
        encoded = [encode_param(one) for one in values]
        for i, one in enumerate(values):
            for j, other in enumerate(values):
                assert (encoded[i] == encoded[j]) == same(one, other), (one, other)

    @given(VALUES, VALUES)
    def test_one_frame_is_never_the_start_of_another(self, one: Any, other: Any) -> None:
        """A frame ends where it says, so frames that follow one another cannot be cut differently."""
        first, second = encode_param(one), encode_param(other)
        assert first == second or not second.startswith(first)

    def test_values_that_compare_equal(self) -> None:
        """Values that Python calls equal, or that print alike, differ when their types do."""
        paris = ZoneInfo("Europe/Paris")
        midnight = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - naive and aware are different keys
        autumn = midnight.replace(month=10, day=25, hour=2)
        values = [
            1, "1", True, 1.0, Decimal(1), Decimal("1.0"), b"1", bytearray(b"1"), memoryview(b"1"),
            Size.SMALL, Genre.CRIME, Colour.RED, Colour.BLUE,
            Plain("1"), mark_safe("1"), Age(1), Money(1),
            lazystr("1"), [1], (1,), {1}, frozenset({1}), {1: 1}, OrderedDict({1: 1}),
            Counter({1: 1}), defaultdict(int, {1: 1}), None, "None",
            0.0, -0.0, math.nan, Decimal("NaN"), Decimal("sNaN"),
            dt.date(2026, 1, 1), midnight, "2026-01-01", "2026-01-01 00:00:00",
            autumn, autumn.replace(fold=1), autumn.replace(tzinfo=paris),
            autumn.replace(tzinfo=paris, fold=1),
            dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            dt.datetime(2026, 1, 1, 0, tzinfo=dt.timezone.utc),
            dt.datetime(2026, 1, 1, 0, tzinfo=dt.timezone.utc, fold=1),
            dt.datetime(2026, 1, 1, 0, tzinfo=ZoneInfo("UTC")),
            dt.time(2), dt.time(2, fold=1), dt.time(2, tzinfo=paris),
            uuid.UUID(int=1), str(uuid.UUID(int=1)),
        ]  # fmt: skip
        assert len({encode_params([one]) for one in values}) == len(values)
        assert len({encode_params([one, 1.5]) for one in values}) == len(values)

    def test_borders_between_parameters(self) -> None:
        """Where one parameter ends and the next begins is part of the key."""
        lists: list[Any] = [
            ("a", "b"), ("ab",), ("a", "b", ""), ("a', 'b",), (["a"], "b"), (["a", "b"],), (("a", "b"),),
            (["a", ["b"]],), ([["a"], "b"],), ([], "a", "b"), (), ([],), ((),), ({},), (None,), None, {},
            {"a": "b"},
            ({"a": "b"},), (1.5, "a", "b"), (1.5, "ab"), (1.5, b"a", "b"),
        ]  # fmt: skip
        assert len({encode_params(one) for one in lists}) == len(lists)

    def test_list_and_tuple_at_the_top(self) -> None:
        """Django gives the parameters of one statement sometimes as a list, sometimes as a tuple."""
        assert encode_params([1, 2.5]) == encode_params((1, 2.5))
        assert encode_params([1]) == encode_params((1,))

    def test_exponent_under_another_decimal_context(self) -> None:
        """The context of the thread does not change a key."""
        before = encode_param(Decimal("1E+5"))
        with decimal.localcontext() as context:
            context.capitals = 0
            assert encode_param(Decimal("1E+5")) == before


class TestDriverWrappers:
    """What Django wraps for a driver is read, not printed."""

    def test_jsonb_with_a_long_common_beginning(self) -> None:
        """Two Jsonb values that differ after the first 60 characters only differ, though they print alike."""
        json_types = pytest.importorskip("psycopg.types.json")
        one, other = ({"key": "x" * 80 + last} for last in "ab")
        for wrapper in (json_types.Jsonb, json_types.Json):
            assert repr(wrapper(one)) == repr(wrapper(other))
            assert encode_params([wrapper(one)]) != encode_params([wrapper(other)])
        assert encode_params([json_types.Jsonb(one)]) != encode_params([json_types.Json(one)])

    def test_psycopg_binary_with_a_long_common_beginning(self) -> None:
        """Two Binary values that print alike differ."""
        psycopg = pytest.importorskip("psycopg")
        one, other = (psycopg.Binary(b"x" * 80 + last) for last in (b"a", b"b"))
        assert repr(one) == repr(other)
        assert encode_params([one]) != encode_params([other])

    def test_psycopg2_wrappers_with_a_long_common_beginning(self) -> None:
        """The Json and Binary of psycopg2 differ wherever their content does."""
        psycopg2 = pytest.importorskip("psycopg2")
        extras = pytest.importorskip("psycopg2.extras")
        assert len({encode_params([psycopg2.Binary(b"x" * 80 + last)]) for last in (b"a", b"b")}) == 2
        assert len({encode_params([extras.Json({"key": "x" * 80 + last})]) for last in "ab"}) == 2

    @pytest.mark.parametrize("module", ["psycopg.types.range", "psycopg2.extras"])
    def test_ranges_that_share_their_bounds(self, module: str) -> None:
        """Which bounds are included, which are open and the type of the bounds are part of the key."""
        cls = pytest.importorskip(module).Range
        bounds = ["[)", "(]", "()", "[]"]
        ranges = [cls(1, 2, one) for one in bounds] + [
            cls("1", "2"),
            cls(Decimal(1), 2),
            cls(None, 2),
            cls(1),
        ]
        ranges += [cls(2, 1), cls(None, None, "()"), cls(empty=True)]
        assert len({encode_params([one]) for one in ranges}) == len(ranges)
        assert encode_params([cls(1, 2)]) == encode_params([cls(1, 2, "[)")])

    def test_multiranges(self) -> None:
        """The ranges of a multirange are all part of the key."""
        ranges, multi = (
            pytest.importorskip("psycopg.types.range"),
            pytest.importorskip("psycopg.types.multirange"),
        )
        one, other = ranges.Range(1, 2), ranges.Range(1, 2, "[]")
        values = [multi.Multirange(), multi.Multirange([one]), multi.Multirange([other]), [one], one]
        values += [multi.Multirange([one, other]), multi.DateMultirange([one])]
        assert len({encode_params([value]) for value in values}) == len(values)

    def test_json_under_another_encoder(self) -> None:
        """The function that writes the JSON is part of the key."""
        json_types = pytest.importorskip("psycopg.types.json")
        value = {"at": dt.date(2026, 1, 1), "sum": Decimal("1.0")}
        functions = [*FUNCTIONS, functools.partial(json.dumps, cls=DjangoJSONEncoder, indent=1)]
        assert len({encode_params([json_types.Jsonb(value, dumps=one)]) for one in functions}) == 5
        again = functools.partial(json.dumps, cls=DjangoJSONEncoder)
        assert encode_params([json_types.Jsonb(value, dumps=again)]) == encode_params(
            [json_types.Jsonb(value, dumps=functions[3])]
        )

    def test_json_function_without_a_name(self) -> None:
        """A lambda or a bound method says nothing about what it writes: the read is not cached."""
        json_types = pytest.importorskip("psycopg.types.json")
        for function in (lambda value: json.dumps(value), json.JSONEncoder().encode):  # noqa: PLW0108
            with pytest.raises(UnencodableParameter):
                encode_params([json_types.Jsonb({}, dumps=function)])

    def test_integer_wrappers_met_for_the_first_time(self) -> None:
        """The Int4 and Int8 of psycopg have their own bytes, the same on the first use as on the second."""
        numeric = pytest.importorskip("psycopg.types.numeric")
        subject._exact_repr.difference_update({numeric.Int2, numeric.Int4, numeric.Int8})
        params = (numeric.Int8(1), "a")
        assert encode_params(params) == encode_params(params)
        lists = [(cls(1), "a") for cls in (int, numeric.Int2, numeric.Int4, numeric.Int8, numeric.Oid)]
        assert len({encode_params(one) for one in lists}) == 5

    def test_quoted_types_of_psycopg2(self) -> None:
        """What is text for the driver already is refused."""
        extensions = pytest.importorskip("psycopg2.extensions")
        for value in (extensions.AsIs("x"), extensions.adapt([1]), extensions.adapt("x")):
            with pytest.raises(UnencodableParameter):
                encode_params([value])

    def test_postgis_adapter(self) -> None:
        """Bytes, reference system and kind of a geometry are the key; its own equality is the bytes only."""
        adapter = type(
            "PostGISAdapter",
            (),
            {"__module__": "django.contrib.gis.db.backends.postgis.adapter", "__eq__": lambda *_: True},
        )

        def make(**fields: Any) -> Any:
            value = adapter()
            vars(value).update(
                {"is_geometry": True, "ewkb": b"\x01", "srid": 4326, "geography": False} | fields
            )
            return value

        variants = [make(), make(ewkb=b"\x02"), make(srid=1), make(geography=True), make(is_geometry=False)]
        assert len({encode_params([one]) for one in variants}) == 5
        assert encode_params([make()]) == encode_params([make()])
        with pytest.raises(UnencodableParameter):
            encode_params([make(extra=1)])


class TestRefused:
    """What is not known is not guessed."""

    @pytest.mark.parametrize(
        "value",
        [
            1j, object(), int, len, range(3), functools.partial(len), Vector(1), Marked("1"), iter([]),
            SimpleLazyObject(lambda: 1), [object()], {"a": {1: [object()]}}, (dt.timezone.utc,),
        ],
        ids=repr,
    )  # fmt: skip
    def test_types_nobody_knows(self, value: Any) -> None:
        """A parameter of an unknown type, at any depth, raises."""
        with pytest.raises(UnencodableParameter):
            encode_params([value])

    def test_subclass_with_a_state_of_its_own(self) -> None:
        """A subclass instance that carries more than its base value is refused, one without is encoded."""
        money = Money("1")
        encode_params([money])
        vars(money)["currency"] = "EUR"
        with pytest.raises(UnencodableParameter, match="Money"):
            encode_params([money])

    def test_local_class(self) -> None:
        """Two local classes may have one name, so none of them is encoded."""
        local = type("Local", (str,), {"__qualname__": "f.<locals>.Local"})
        with pytest.raises(UnencodableParameter):
            encode_params([local("1")])

    def test_list_that_contains_itself(self) -> None:
        """Whatever goes wrong while encoding is reported as this parameter."""
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(UnencodableParameter):
            encode_params([loop])

    def test_text_instead_of_a_list(self) -> None:
        """A string is not a list of parameters."""
        for params in ("ab", b"ab", 1):
            with pytest.raises(UnencodableParameter):
                encode_params(params)  # type: ignore[arg-type]

    def test_error_names_the_type(self) -> None:
        """The name of the type is there for explain."""
        with pytest.raises(UnencodableParameter) as caught:
            encode_params([Vector(1)])
        assert caught.value.type_name.endswith("test_params.Vector")


class TestSubclassesAndLazy:
    """Strings that are not exactly str are cached too."""

    def test_lazy_string(self) -> None:
        """A lazy string stands for what it is at this moment."""
        word = ["a"]
        text = lazy(lambda: word[0], str)()
        before = encode_params([text])
        assert before == encode_params([lazystr("a")])
        word[0] = "b"
        assert encode_params([text]) != before

    def test_classes_made_for_one_string(self) -> None:
        """Classes met once are not kept alive."""
        text = lazystr("a")
        cls = weakref.ref(type(text))
        encode_params([text])
        del text
        gc.collect()
        assert cls() is None

    def test_safe_string(self) -> None:
        """A string that was marked safe is encoded, by its class."""
        assert encode_params([SafeString("a")]) == encode_params([SafeString("a")])
        assert encode_params([SafeString("a")]) != encode_params(["a"])


class TestRegister:
    """Projects may add types."""

    def test_registered_class(self) -> None:
        """A registered class is encoded by its function and by its name."""
        register_param(Vector, lambda value: repr(value.cells).encode())
        try:
            assert encode_params([Vector(1)]) != encode_params([Vector(2)])
            assert encode_params([[Vector(1)]]) == encode_params([[Vector(1)]])
            assert encode_params([Vector(1)]) != encode_params([b"(1,)"])
            with pytest.raises(UnencodableParameter):
                encode_params([WiderVector(1)])
            register_param(Vector, lambda value: 5)  # type: ignore[arg-type,return-value]
            with pytest.raises(UnencodableParameter):
                encode_params([Vector(1)])
        finally:
            del subject._encoders[Vector]

    def test_builtin_type(self) -> None:
        """What is always encoded cannot be replaced."""
        with pytest.raises(ValueError, match="int"):
            register_param(int, lambda value: b"")


class TestTimeWords:
    """Words that a database reads as the current time are found."""

    @pytest.mark.parametrize(
        "params",
        [
            ("now",), ["a", ["b", ["now"]]], {"a": "now"}, ({"now": 1},), (Plain("now"),), (lazystr("now"),),
            (("x", {"now"}),), None,
        ],
        ids=repr,
    )  # fmt: skip
    def test_at_any_depth(self, params: Any) -> None:
        """A time word counts wherever it stands."""
        assert time_words(params) == (params is not None)

    def test_enum_member(self) -> None:
        """A driver sends the value or the name of a member."""
        assert time_words([enum.Enum("When", {"x": "now"}).x])
        assert time_words([enum.Enum("When", {"now": 1}).now])
        assert not time_words([Size.SMALL])

    def test_bounds_of_a_range(self) -> None:
        """The bounds of a range are read as text by the database."""
        for module in ("psycopg.types.range", "psycopg2.extras"):
            cls = pytest.importorskip(module).Range
            assert time_words([cls("now", None)])
            assert not time_words([cls(1, 2)])

    def test_words_inside_json(self) -> None:
        """Text inside JSON is never read as a time."""
        assert not time_words([pytest.importorskip("psycopg.types.json").Jsonb(["now"])])

    def test_other_values(self) -> None:
        """Bytes, numbers and other words are no time words, and a lazy object is not woken up."""

        def fail() -> None:
            raise AssertionError

        assert not time_words((b"now", 1, None, "nowhere", Decimal(1), SimpleLazyObject(fail)))
