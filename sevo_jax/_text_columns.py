"""Parses numbers and times of a CSV file exactly; whatever is unclear is an error.

All values of a column must be written in one way. The expressions of ibis here mean the same to
DuckDB and to Spark.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

# Spaces around a number or a time do not count.
_INTEGER = r"^ *([+-]?\d+)(\.0*)? *$"
_WHOLE = r"^ *[+-]?\d+ *$"
_NUMBER = r"^ *[+-]?(\d+\.?\d*|\.\d+) *$"
_SCIENTIFIC = r"^ *[+-]?(\d+\.?\d*|\.\d+)[eE]\+?\d\d? *$"
_DECIMAL = "decimal(38, 19)"  # exact, but slow to read
_DATE = r"^ *\d{4}-\d{2}-\d{2}"
_CLOCK = r"[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d([.,]\d{1,9})?)?"
_ZONE = r" ?(Z|z|UTC|[+-](0\d|1[0-4])(:?[0-5]\d)?)"

WHOLE, NUMBERS, POWERS = "whole numbers", "numbers", "numbers, some with exponents"
LOCAL, ZONED = "dates or times without an offset", "times with an offset"
TIMES = "numbers, such as 1389230000, or ISO dates, such as 2014-01-09 10:00:00"


def integer(text: Any) -> Any:
    """Parses integers, also as 3.0 or 007. Other text and larger numbers than 64 bits give null."""
    return text.re_extract(_INTEGER, 1).try_cast("int64")


def ways(text: Any) -> dict[str, Any]:
    """Returns a condition for each way to write a time. A whole number fulfils several."""
    import ibis

    def both(pattern: str, condition: Any) -> Any:
        # Casts that fail are slow, so only text that looks right is cast.
        return ibis.ifelse(text.re_search(pattern), condition, False)

    short = ~text.re_search(r"\.\d{19}") & _whole_part(text.strip()).notnull()
    number = both(_NUMBER, short)
    exact = ~text.re_search(r"\.\d{20}") & text.strip().try_cast(_DECIMAL).notnull()
    date = text.strip().substr(0, 10).try_cast("date").notnull()  # no 30 February
    return {
        WHOLE: both(_WHOLE, text.strip().try_cast("int64").notnull()),
        NUMBERS: number,
        POWERS: ibis.ifelse(text.re_search("[eE]"), both(_SCIENTIFIC, exact), number),
        LOCAL: both(f"{_DATE}({_CLOCK})? *$", date),
        ZONED: both(f"{_DATE}{_CLOCK}{_ZONE} *$", date),
    }


def _whole_part(text: Any) -> Any:
    import ibis

    digits = text.re_extract(r"^([+-]?\d+)", 1).try_cast("int64")
    return ibis.ifelse(text.re_search(r"^[+-]?\."), 0, digits)


def keys(text: Any, way: str) -> list[Any]:
    """Returns one or two columns that order texts by time, all of them written in one way."""
    text = text.strip()
    if way == WHOLE:
        return [text.try_cast("int64")]
    if way == POWERS:
        return [text.try_cast(_DECIMAL)]
    import ibis

    def part(start: int, present: Any = True) -> Any:
        digits: Any = text.substr(start, 2).try_cast("int64")
        number: Any = ibis.ifelse(present, digits, 0)
        return number.fill_null(0)

    def offset(group: int) -> Any:
        found = text.re_extract(r"[+-](\d{2}):?(\d{2})?$", group)
        return found.try_cast("int64").fill_null(0)

    def fraction(mark: str, zeros: str) -> Any:
        digits = text.re_extract(rf"{mark}(\d+)", 1) + zeros
        return digits.substr(0, len(zeros)).try_cast("int64").fill_null(0)

    if way == NUMBERS:
        rest = fraction(r"\.", "0" * 18)
        return [_whole_part(text), ibis.ifelse(text.startswith("-"), -rest, rest)]
    days = text.substr(0, 10).try_cast("date").delta(ibis.date(1970, 1, 1), unit="day")
    seconds = days * 86400 + part(11) * 3600 + part(14) * 60 + part(17, text.substr(16, 1) == ":")
    if way == ZONED:
        shift = offset(1) * 3600 + offset(2) * 60
        east = text.re_search(r"\+[0-9:]+$")
        seconds = ibis.ifelse(east, seconds - shift, seconds + shift)
    return [seconds, fraction("[.,]", "0" * 9)]


def advice(value: str) -> str:
    """Advises what to write instead of ``value``, with all readings of an unclear date."""
    found = re.match(r" *(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)", value)
    if not found:
        return ""
    first, second = int(found[1]), int(found[3])
    year = int(found[4]) + (2000 if len(found[4]) == 2 else 0)
    readings: list[str] = []
    for day, month in ((first, second), (second, first)):
        try:
            readings.append(datetime.date(year, month, day).isoformat())
        except ValueError:
            continue
    if not readings:
        return ""
    read = " (day first) or ".join(dict.fromkeys(readings))
    read += " (month first)" if len(set(readings)) > 1 else ""
    return f"; write {read}" + (", whichever it is" if len(set(readings)) > 1 else "")
