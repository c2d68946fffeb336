"""The rows of the atlas, read from the ISO tables of ``pycountry``.

ISO 4217 makes the code of a national currency from the country's two letters and an initial of the currency,
so the two letters give the country back. The currencies that several countries use are listed by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pycountry

from atlas.models import Country, Currency, Language, Script, Subdivision

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED = {
    "AUD": "CC CX HM KI NF NR TV",
    "CHF": "LI",
    "DKK": "FO GL",
    "EUR": (
        "AD AT AX BE BG BL CY DE EE ES FI FR GF GP GR HR IE IT "
        "LT LU LV MC ME MF MQ MT NL PM PT RE SI SK SM TF VA YT"
    ),
    "GBP": "GG IM JE",
    "ILS": "PS",
    "INR": "BT",
    "MAD": "EH",
    "NOK": "BV SJ",
    "NZD": "CK NU PN TK",
    "USD": "AS BQ EC FM GU IO MH MP PA PR PW SV TC TL UM VG VI",
    "XAF": "CF CG CM GA GQ TD",
    "XCD": "AG AI DM GD KN LC MS VC",
    "XCG": "CW SX",
    "XOF": "BF BJ CI GW ML NE SN TG",
    "XPF": "NC PF WF",
    "ZAR": "LS NA",
}


def currencies() -> list[Currency]:
    """Return the currencies of ISO 4217."""
    return [Currency(code=one.alpha_3, number=one.numeric, name=one.name) for one in pycountry.currencies]


def countries() -> list[Country]:
    """Return the countries of ISO 3166-1."""
    return [
        Country(
            code=one.alpha_2,
            code3=one.alpha_3,
            number=one.numeric,
            name=getattr(one, "common_name", one.name),
            official_name=getattr(one, "official_name", ""),
        )
        for one in pycountry.countries
    ]


def subdivisions() -> list[Subdivision]:
    """Return the subdivisions of ISO 3166-2."""
    return [
        Subdivision(
            code=one.code,
            country_id=one.country_code,
            parent_id=one.parent_code,
            kind=one.type,
            name=one.name,
        )
        for one in pycountry.subdivisions
    ]


def languages() -> list[Language]:
    """Return the languages of ISO 639-3."""
    return [
        Language(
            code=one.alpha_3,
            code2=getattr(one, "alpha_2", ""),
            name=one.name,
            inverted_name=getattr(one, "inverted_name", ""),
            scope=one.scope,
            kind=one.type,
        )
        for one in pycountry.languages
    ]


def scripts() -> list[Script]:
    """Return the writing systems of ISO 15924."""
    return [Script(code=one.alpha_4, number=one.numeric, name=one.name) for one in pycountry.scripts]


def currency_of_country() -> Iterator[tuple[str, str]]:
    """Yield pairs of a country's and a currency's code."""
    known = {one.alpha_2 for one in pycountry.countries}
    for one in pycountry.currencies:
        own = {one.alpha_3[:2]} & known
        shared = set(SHARED.get(one.alpha_3, "").split()) & known
        for country in sorted(own | shared):
            yield country, one.alpha_3
