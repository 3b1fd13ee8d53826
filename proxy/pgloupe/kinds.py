"""The kinds of settings: from the value in the file, or the text of a flag or variable, to what the program uses.

Each function raises ValueError with what is wrong, said so that the name of the setting and a colon can stand before it.
What may hold a password is quoted without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pgloupe import redis_url
from pgloupe.urls import Upstream, check_parameters, parse_upstream

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_duration(value: object) -> float:
    """Seconds: a number, or a number with ms, s, m, h or d."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration: write 500ms, 60s, 5m, 1h")
        seconds = float(match.group(1)) * _UNITS[match.group(2)]
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{value!r} is out of range")
    return seconds


def parse_number(value: object) -> float:
    """A number from 0 up."""
    try:
        number = float(str(value)) if not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a number from 0 up")
    return number


def parse_whole(least: int) -> Callable[[object], int]:
    """The kind of whole numbers from `least` up."""

    def parse(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not text.isdigit() or int(text) < least:
            raise ValueError(f"{value!r} is not a whole number from {least} up")
        return int(text)

    return parse


def parse_boolean(value: object) -> bool:
    """true, on, yes, 1 or false, off, no, 0."""
    text = str(value).strip().lower()
    if text in ("true", "on", "yes", "1"):
        return True
    if text in ("false", "off", "no", "0"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def parse_text(value: object) -> str:
    """A text; nothing is taken for one."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def parse_redis_url(value: object) -> str | None:
    """A URL of Redis; None for an empty one."""
    text = str(value)
    if text:
        redis_url.parse(text)
    return text or None


def parse_namespace(value: object) -> str:
    """A name for keys in Redis; may be empty."""
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{0,64}", text):
        raise ValueError(f"{text!r} is not a name of up to 64 letters, digits and _ . : -")
    return text


def parse_server(value: object) -> Upstream:
    """A URL of PostgreSQL with no parameter that libpq does not know."""
    upstream = parse_upstream(str(value))
    check_parameters(upstream.url)
    return upstream


def parse_server_url(value: object) -> str | None:
    """Likewise, as it was given; None for an empty one."""
    return parse_server(value).url if value else None
