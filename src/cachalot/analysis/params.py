"""Parameters of a statement as bytes, without loss, for keys.

Two lists of parameters give the same bytes only if they are equal in type and in value, so that two
statements never share an entry because their parameters look alike. What cannot be encoded so raises
:class:`UnencodableParameter`, and the read is not cached.

How a type is found, first match wins:

1. a function given to :func:`register_param`, for exactly that class;
2. the types of the standard library that drivers adapt, the members of enums and the lazy strings of Django;
3. the wrappers that Django and the drivers put around values (``Jsonb``, ``Range``, ``PostGISAdapter``, …),
   known by the name of their class, because no driver may be imported here. Never by their repr: psycopg
   shortens it;
4. a subclass of 2 or 3 that adds nothing to the state of its base: no filled ``__dict__``, no slots, no
   hidden fields of a C type. Whatever a driver does with such a value follows from its class and the value of
   its base, and both are in the key. A subclass with a state of its own is refused: the driver may send what
   we do not see.

The bytes are frames ``tag length : body``: a frame ends where its length says, so no two concatenations meet.
One shortcut: where all parameters are of types whose ``repr`` is exact, the ``repr`` of the tuple is the
encoding.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import ipaddress
import struct
import sys
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from types import MemberDescriptorType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.utils.functional import Promise

from cachalot.analysis.volatility import is_time_word

Encoder = Callable[[Any], bytes]


class UnencodableParameter(TypeError):
    """A parameter cannot be turned into a key without loss.

    :param cls: type of the parameter.

    .. versionadded:: 3.0
    """

    def __init__(self, cls: type) -> None:
        self.type_name = f"{cls.__module__}.{cls.__qualname__}"
        super().__init__(self.type_name)


def encode_params(params: Sequence[Any] | Mapping[str, Any] | None) -> bytes:
    """Return all parameters of a statement as bytes.

    :param params: what would be given to the cursor; a list and a tuple with the same content are the same.
    :returns: bytes that no other parameters give.
    :raises UnencodableParameter: if the type of a parameter is not known, or encoding it failed in any way.

    .. versionadded:: 3.0
    """
    try:
        if type(params) is not tuple and type(params) is not list:
            return _encode_uncommon(params)
        if _exact_repr.issuperset(map(type, params)):
            return b"p" + repr(tuple(params)).encode()
        return _encode_mixed(params)
    except UnencodableParameter:
        raise
    except Exception as error:  # a cyclic list, a tzinfo that raises: not ours to report, the driver will
        raise UnencodableParameter(type(params)) from error


def encode_param(value: Any) -> bytes:
    """Return one parameter as bytes that end where they say.

    :param value: the parameter.
    :raises UnencodableParameter: if its type is not known.

    .. versionadded:: 3.0
    """
    cls = type(value)
    encode = _encoders.get(cls) or _resolved.get(cls)
    if encode is None:
        encode = _resolved[cls] = _resolve(cls)
    return encode(value)


def register_param(type_: type, encode: Callable[[Any], bytes]) -> None:
    """Teach the keys a type of parameter.

    The function counts for exactly this class: a subclass may carry what it does not know, so it is
    registered by itself. The name of the class goes into the key; ``encode`` has to tell apart the values of
    the class only.

    :param type_: the class.
    :param encode: returns all of the value that could change what the driver sends.
    :raises ValueError: if the type belongs to those that are always encoded.

    .. versionadded:: 3.0
    """
    if type_ in _BUILTIN:
        raise ValueError(f"{type_.__qualname__} is always encoded without loss")
    name = _text(f"{type_.__module__}:{type_.__qualname__}")
    _encoders[type_] = lambda value: _frame(b"R", _frame(b"c", name) + encode(value))


def time_words(params: Any) -> bool:
    """Return whether a parameter holds a word that a database reads as the current time, at any depth.

    JSON wrappers are not opened, the database never reads their content as a time.

    :param params: the parameters of a statement, or one of them.
    """
    cls = type(params)
    if cls in _never_time or ((cls is tuple or cls is list) and _never_time.issuperset(map(type, params))):
        return False
    if issubclass(cls, Promise):
        return time_words(params._proxy____cast())  # noqa: SLF001 - what Django's own fields call
    if issubclass(cls, enum.Enum):  # a driver sends the value or the name
        return time_words(params._value_) or time_words(params._name_)
    if issubclass(cls, int):  # the Int4 and Int8 of psycopg
        return False
    if issubclass(cls, str):
        return is_time_word(str.__str__(params))
    if issubclass(cls, Mapping):  # not isinstance: it would run the query behind a SimpleLazyObject
        return any(map(time_words, params)) or any(map(time_words, params.values()))
    if issubclass(cls, list | tuple | set | frozenset):
        return any(map(time_words, params))
    adapter = _adapter_of(cls)
    return adapter is not None and any(time_words(getattr(params, name)) for name in adapter[1].timely)


def _encode_uncommon(params: Any) -> bytes:
    if params is None:  # not the same as no parameters: percent signs in the statement are literal then
        return b"n"
    if isinstance(params, Mapping):
        return b"m" + _encode_pairs(params.items())
    if isinstance(params, Sequence) and not isinstance(params, str | bytes | bytearray | memoryview):
        return encode_params(tuple(params))
    raise UnencodableParameter(type(params))


def _encode_mixed(params: Sequence[Any]) -> bytes:
    types = set(map(type, params)) - _exact_repr
    wrappers = {cls for cls in types if f"{cls.__module__}.{cls.__qualname__}" in _EXACT_REPR_NAMES}
    if wrappers:
        # psycopg sees most integers of the ORM as Int4 or Int8; learnt here, since it may not be imported.
        _exact_repr.update(wrappers)
        return encode_params(params)
    return b"s" + b"".join(map(encode_param, params))


def _frame(tag: bytes, body: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(body), body)


def _text(value: str) -> bytes:
    return str.encode(value, "utf-8", "surrogatepass")


def _encode_pairs(pairs: Iterable[tuple[Any, Any]]) -> bytes:
    return b"".join(encode_param(key) + encode_param(value) for key, value in pairs)


def _encode_datetime(value: dt.datetime) -> bytes:
    return _frame(b"d", _fold_and_zone(value) + dt.datetime.isoformat(value).encode())


def _encode_time(value: dt.time) -> bytes:
    return _frame(b"h", _fold_and_zone(value) + dt.time.isoformat(value).encode())


def _fold_and_zone(value: dt.datetime | dt.time) -> bytes:
    """Return what isoformat leaves out: the fold, and the zone beyond its offset at that moment."""
    if value.tzinfo is None:
        return b"%d-" % value.fold
    zone = value.tzinfo
    key = getattr(zone, "key", None) or getattr(zone, "zone", None)  # of zoneinfo, of pytz
    return b"%d+" % value.fold + _frame(b"z", _text(f"{_class_name(type(zone))}:{key}"))


def _encode_view(value: memoryview) -> bytes:
    return _frame(b"w", _frame(b"f", f"{value.format}{value.shape}".encode()) + value.tobytes())


def _named(encode: Callable[[Any], str], cls: type) -> Encoder:
    tag = _frame(b"c", cls.__qualname__.encode())
    return lambda value: _frame(b"K", tag + _text(encode(value)))


# The types of the standard library, by exact class.
_BUILTIN: dict[type, Encoder] = {
    type(None): lambda _: b"n0:",
    bool: lambda value: b"b1:1" if value else b"b1:0",
    int: lambda value: _frame(b"i", int.__format__(value, "x").encode()),
    float: lambda value: _frame(b"g", struct.pack(">d", value)),
    str: lambda value: _frame(b"t", _text(value)),
    bytes: lambda value: _frame(b"y", value),
    bytearray: lambda value: _frame(b"a", bytes(value)),
    memoryview: _encode_view,
    # The case of the exponent depends on the decimal context.
    Decimal: lambda value: _frame(b"e", Decimal.__str__(value).upper().encode()),
    dt.date: lambda value: _frame(b"o", dt.date.isoformat(value).encode()),
    dt.time: _encode_time,
    dt.datetime: _encode_datetime,
    dt.timedelta: lambda value: _frame(b"v", b"%d,%d,%d" % (value.days, value.seconds, value.microseconds)),
    uuid.UUID: lambda value: _frame(b"u", b"%x" % value.int),
    list: lambda value: _frame(b"L", b"".join(map(encode_param, list.__iter__(value)))),
    tuple: lambda value: _frame(b"T", b"".join(map(encode_param, tuple.__iter__(value)))),
    set: lambda value: _frame(b"E", b"".join(sorted(map(encode_param, set.__iter__(value))))),
    frozenset: lambda value: _frame(b"F", b"".join(sorted(map(encode_param, frozenset.__iter__(value))))),
    dict: lambda value: _frame(b"D", _encode_pairs(dict.items(value))),
    OrderedDict: lambda value: _frame(b"O", _encode_pairs(OrderedDict.items(value))),
    defaultdict: lambda value: _frame(b"Q", _encode_pairs(dict.items(value))),
    Counter: lambda value: _frame(b"C", _encode_pairs(dict.items(value))),
}
_BUILTIN |= {
    cls: _named(str, cls)
    for cls in (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
}
# Those whose subclasses are encoded too, when they add no state.
_BASES = frozenset(cls for cls in _BUILTIN if cls.__module__ not in {"ipaddress", "collections"})

_encoders: dict[type, Encoder] = dict(_BUILTIN)
# Weak, since django.utils.functional.lazystr makes a new class for every string.
_resolved: WeakKeyDictionary[type, Encoder] = WeakKeyDictionary()

_EXACT_REPR_NAMES = frozenset(
    f"psycopg.types.numeric.{name}" for name in ("Int2", "Int4", "Int8", "IntNumeric")
)
_exact_repr: set[type] = {type(None), bool, int, str, bytes}
_never_time = frozenset(
    cls for cls in _BUILTIN if not issubclass(cls, str | list | tuple | set | frozenset | dict)
)


class _Adapter(NamedTuple):
    """What there is to read of a wrapper.

    :param values: attributes that hold parameters; together they are all of its state.
    :param functions: attributes that hold the function which turns the value into text.
    :param ignored: attributes that say nothing about the value.
    :param timely: attributes whose text the database may read as a time.
    """

    values: tuple[str, ...]
    functions: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    timely: tuple[str, ...] = ()


_ADAPTERS = {
    "psycopg.types.json.Json": _Adapter(("obj",), ("dumps",)),
    "psycopg.types.json.Jsonb": _Adapter(("obj",), ("dumps",)),
    "psycopg.dbapi20.Binary": _Adapter(("obj",)),
    "psycopg.types.range.Range": _Adapter(("_lower", "_upper", "_bounds"), timely=("_lower", "_upper")),
    "psycopg.types.multirange.Multirange": _Adapter(("_ranges",), timely=("_ranges",)),
    "psycopg2._json.Json": _Adapter(("adapted",), ("_dumps",), ignored=("_conn",)),
    "psycopg2.extensions.Binary": _Adapter(("adapted",)),
    "psycopg2._range.Range": _Adapter(("_lower", "_upper", "_bounds"), timely=("_lower", "_upper")),
    "psycopg2.extras.Inet": _Adapter(("addr",), ignored=("_conn",)),
    "django.contrib.gis.db.backends.postgis.adapter.PostGISAdapter": _Adapter(
        ("is_geometry", "ewkb", "srid", "geography")
    ),
    # Also the base of the adapters of SpatiaLite and Oracle.
    "django.contrib.gis.db.backends.base.adapter.WKTAdapter": _Adapter(("wkt", "srid")),
}


def _resolve(cls: type) -> Encoder:
    if issubclass(cls, Promise):
        return _encode_lazy
    if issubclass(cls, enum.Enum):
        return functools.partial(_encode_member, _frame(b"c", _text(_class_name(cls))))
    found = _adapter_of(cls)
    if found is not None:
        base, adapter = found
        known = frozenset((*adapter.values, *adapter.functions, *adapter.ignored))
        return _encoder_of_subclass(cls, base, functools.partial(_encode_adapter, adapter), known)
    for base in cls.__mro__:
        if base in _BASES:
            return _encoder_of_subclass(cls, base, _BUILTIN[base], frozenset())
    raise UnencodableParameter(cls)


def _adapter_of(cls: type) -> tuple[type, _Adapter] | None:
    for base in cls.__mro__:
        adapter = _ADAPTERS.get(f"{base.__module__}.{base.__qualname__}")
        if adapter is not None:
            return base, adapter
    return None


def _encoder_of_subclass(cls: type, base: type, encode: Encoder, known: frozenset[str]) -> Encoder:
    if not _adds_no_fields(cls, base):
        raise UnencodableParameter(cls)
    tag = _frame(b"c", _text(_class_name(cls)))

    # Must not hold the class itself, which is the weak key of this function.
    def encode_instance(value: Any) -> bytes:
        if not known.issuperset(getattr(value, "__dict__", ())):
            raise UnencodableParameter(type(value))
        return _frame(b"S", tag + encode(value))

    return encode_instance


def _adds_no_fields(cls: type, base: type) -> bool:
    """Return whether instances have no room for more than ``base`` has, an instance dict aside.

    A slot shows as a member descriptor. A field of a C type shows only as size: pandas.Timestamp is a
    datetime with nanoseconds that nothing in Python lists.
    """
    while cls is not base:
        parent = cls.__base__
        if parent is None:
            return False  # the base was a mixin
        room = 8 * (("__dict__" in vars(cls)) + ("__weakref__" in vars(cls)))
        if cls.__basicsize__ - parent.__basicsize__ > room:
            return False
        if any(isinstance(member, MemberDescriptorType) for member in vars(cls).values()):
            return False
        cls = parent
    return True


def _class_name(cls: type) -> str:
    """Return a name that no other class has."""
    if "<locals>" in cls.__qualname__:
        raise UnencodableParameter(cls)
    return f"{cls.__module__}:{cls.__qualname__}"


def _encode_lazy(value: Any) -> bytes:
    # What it stands for at this moment, in the active language, as Django's own fields ask for it.
    return _frame(b"Z", encode_param(value._proxy____cast()))  # noqa: SLF001


def _encode_member(tag: bytes, value: enum.Enum) -> bytes:
    # Depending on the class a driver sends the value or the name.
    return _frame(b"M", tag + encode_param(value._name_) + encode_param(value._value_))


def _encode_adapter(adapter: _Adapter, value: Any) -> bytes:
    fields = [encode_param(getattr(value, name)) for name in adapter.values]
    fields += [_encode_function(getattr(value, name)) for name in adapter.functions]
    return b"".join(fields)


def _encode_function(function: Any) -> bytes:
    """Return the identity of a function or class: its importable name, with the arguments of a partial."""
    if function is None:
        return b"n0:"
    if type(function) is functools.partial:
        arguments = [*map(_encode_argument, function.args)]
        for name, argument in sorted(function.keywords.items()):
            arguments += [_frame(b"k", _text(name)), _encode_argument(argument)]
        return _frame(b"P", _encode_function(function.func) + b"".join(arguments))
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise UnencodableParameter(type(function))
    return _frame(b"c", _text(f"{function.__module__}:{function.__qualname__}"))


def _encode_argument(argument: Any) -> bytes:
    return _encode_function(argument) if callable(argument) else encode_param(argument)
