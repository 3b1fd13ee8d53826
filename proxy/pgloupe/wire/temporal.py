"""Dates, times and intervals, text or binary, as Python values that compare: the part of `values` about time.

Both formats lead to one number, of days or of microseconds since 2000-01-01, so that what Python cannot hold (years
before 1 or after 9999, infinity, 24:00) is the same string from both, in the form that PostgreSQL prints under DateStyle
ISO; with a time zone, in UTC. Text under another DateStyle or IntervalStyle is not understood. Every function here may
raise ValueError, OverflowError or struct.error: `values.decode` catches them.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from struct import Struct
from typing import Final

_INT32: Final = Struct("!i")
_INT64: Final = Struct("!q")
_TIMETZ: Final = Struct("!qi")
_INTERVAL: Final = Struct("!qii")

_SECOND_US: Final = 1_000_000
_DAY_US: Final = 86_400 * _SECOND_US
_EPOCH: Final = datetime(2000, 1, 1)
_EPOCH_UTC: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_FIRST_DAY: Final = 1 - _EPOCH_ORDINAL
_LAST_DAY: Final = date.max.toordinal() - _EPOCH_ORDINAL

_DATE: Final = re.compile(r"([0-9]{4,7})-([0-9]{2})-([0-9]{2})( BC)?")
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4,6})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
    r"(?:([+-])([0-9]{2})(?::?([0-9]{2}))?(?::?([0-9]{2}))?)?( BC)?"
)
_INFINITIES: Final = ("infinity", "-infinity")


def _days(year: int, month: int, day: int) -> int:
    """Days since 2000-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError
    shifted = year - 1 if month <= 2 else year
    era, of_era = divmod(shifted, 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 730_425


def _civil(days: int) -> tuple[str, str]:
    """The date that is so many days after 2000-01-01, and " BC" or ""."""
    era, of_era = divmod(days + 730_425, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    day = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = era * 400 + year_of_era + (1 if month <= 2 else 0)
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}", "" if year > 0 else " BC"


def _clock(us: int) -> str:
    seconds, fraction = divmod(us, _SECOND_US)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text if not fraction else f"{text}.{fraction:06d}".rstrip("0")


def _date_of(days: int) -> object:
    if _FIRST_DAY <= days <= _LAST_DAY:
        return date.fromordinal(days + _EPOCH_ORDINAL)
    text, era = _civil(days)
    return text + era


def date_from_text(text: str) -> object:
    if len(text) == 10:
        return date.fromisoformat(text)
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError  # "infinity" among others: it stays text
    year = int(match[1])
    return _date_of(_days(year if match[4] is None else 1 - year, int(match[2]), int(match[3])))


def date_from_binary(data: bytes) -> object:
    (days,) = _INT32.unpack(data)
    if abs(days) >= 2**31 - 1:
        return _INFINITIES[days < 0]
    return _date_of(days)


def _timestamp_of(us: int, zone: bool) -> object:
    days, of_day = divmod(us, _DAY_US)
    if _FIRST_DAY <= days <= _LAST_DAY:
        return (_EPOCH_UTC if zone else _EPOCH) + timedelta(days=days, microseconds=of_day)
    text, era = _civil(days)
    return f"{text} {_clock(of_day)}{'+00' if zone else ''}{era}"


def _timestamp_beyond(text: str, zone: bool) -> object:
    match = _TIMESTAMP.fullmatch(text)
    if match is None or (zone and match[8] is None):
        raise ValueError
    year = int(match[1])
    seconds = int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6])
    if zone:
        offset = int(match[9]) * 3600 + int(match[10] or 0) * 60 + int(match[11] or 0)
        seconds += offset if match[8] == "-" else -offset
    days = _days(year if match[12] is None else 1 - year, int(match[2]), int(match[3]))
    return _timestamp_of(days * _DAY_US + seconds * _SECOND_US + int((match[7] or "0").ljust(6, "0")), zone)


def timestamp_from_text(text: str) -> object:
    if len(text) <= 32 and text[4:5] == "-" and not text.endswith("BC"):
        return datetime.fromisoformat(text).replace(tzinfo=None)
    return _timestamp_beyond(text, False)


def timestamptz_from_text(text: str) -> object:
    """In UTC; text without a zone means the session's TimeZone, which is not known here, and stays without."""
    if len(text) <= 35 and text[4:5] == "-" and not text.endswith("BC"):
        value = datetime.fromisoformat(text)
        if value.tzinfo is None:
            return value
        try:
            return value.astimezone(UTC)
        except OverflowError:
            pass  # in year 1 or 9999 there, but not in UTC
    return _timestamp_beyond(text, True)


def timestamp_from_binary(data: bytes) -> object:
    (us,) = _INT64.unpack(data)
    return _INFINITIES[us < 0] if abs(us) >= 2**63 - 1 else _timestamp_of(us, False)


def timestamptz_from_binary(data: bytes) -> object:
    (us,) = _INT64.unpack(data)
    return _INFINITIES[us < 0] if abs(us) >= 2**63 - 1 else _timestamp_of(us, True)


def time_from_text(text: str) -> object:
    if text.startswith("24"):
        return text
    return time.fromisoformat(text).replace(tzinfo=None)


def timetz_from_text(text: str) -> object:
    if text.startswith("24"):
        return text
    return time.fromisoformat(text)


def _time_of(us: int, zone: timezone | None) -> time:
    seconds, fraction = divmod(us, _SECOND_US)
    return time(seconds // 3600, seconds // 60 % 60, seconds % 60, fraction, zone)


def time_from_binary(data: bytes) -> object:
    (us,) = _INT64.unpack(data)
    return "24:00:00" if us == _DAY_US else _time_of(us, None)


def timetz_from_binary(data: bytes) -> object:
    us, west = _TIMETZ.unpack(data)
    if us != _DAY_US:
        return _time_of(us, timezone(timedelta(seconds=-west)))
    hours, rest = divmod(abs(west), 3600)
    text = f"24:00:00{'-' if west > 0 else '+'}{hours:02d}"
    if rest:
        text += f":{rest // 60:02d}"
    return text if not rest % 60 else f"{text}:{rest % 60:02d}"


_INTERVAL_TEXT: Final = re.compile(
    r"(?:([+-]?[0-9]{1,9}) years?)? ?(?:([+-]?[0-9]{1,10}) mons?)? ?(?:([+-]?[0-9]{1,10}) days?)? ?"
    r"(?:([+-]?)([0-9]{1,10}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?)?"
)
_INTERVAL_ISO: Final = re.compile(
    r"P(?:(-?[0-9]{1,9})Y)?(?:(-?[0-9]{1,10})M)?(?:(-?[0-9]{1,10})D)?"
    r"(?:T(?:(-?[0-9]{1,10})H)?(?:(-?[0-9]{1,10})M)?(?:(-?)([0-9]{1,10})(?:\.([0-9]{1,6}))?S)?)?"
)


def interval_from_text(text: str) -> object:
    """(months, days, microseconds) from the IntervalStyles postgres and iso_8601."""
    match = _INTERVAL_TEXT.fullmatch(text)
    if match is not None and text:
        sign = -1 if match[4] == "-" else 1
        us = (int(match[5] or 0) * 3600 + int(match[6] or 0) * 60 + int(match[7] or 0)) * _SECOND_US
        us = sign * (us + int((match[8] or "0").ljust(6, "0")))
        return (int(match[1] or 0) * 12 + int(match[2] or 0), int(match[3] or 0), us)
    match = _INTERVAL_ISO.fullmatch(text)
    if match is None or len(text) < 3:
        raise ValueError
    us = int(match[7] or 0) * _SECOND_US + int((match[8] or "0").ljust(6, "0"))
    us = (-us if match[6] else us) + (int(match[4] or 0) * 60 + int(match[5] or 0)) * 60 * _SECOND_US
    return (int(match[1] or 0) * 12 + int(match[2] or 0), int(match[3] or 0), us)


def interval_from_binary(data: bytes) -> object:
    us, days, months = _INTERVAL.unpack(data)
    if abs(us) >= 2**63 - 1 and abs(days) >= 2**31 - 1 and abs(months) >= 2**31 - 1:
        return _INFINITIES[us < 0]
    return (months, days, us)
