"""Tags in SQL comments: the sqlcommenter format (`key='value'`, URL-encoded) and that of Rails' marginalia
(`key:value`). https://google.github.io/sqlcommenter/spec/

A comment `pgloupe:…` is a hint to the cache (see `allow`) and becomes the tag `pgloupe`.

Comments come from the application, so nothing in them is trusted: their number and their length are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from pgloupe_rules.types import NO_TAGS

MAX_TAGS: Final = 32
MAX_COMMENT: Final = 4096
"""Characters of a comment that are looked at."""
MAX_VALUE: Final = 256
"""Characters of a value that are kept."""

REQUEST_TAGS: Final = ("request_id", "requestid", "x_request_id", "correlation_id", "job_id")

HINT: Final = "pgloupe"
"""The tag that holds a hint to the cache."""
_HINT_START: Final = "pgloupe:"

_QUOTED: Final = re.compile(r"\s*+([^\s='\",:]++)\s*+=\s*+'((?:[^'\\]++|\\.)*+)'\s*+(?:,|\Z)", re.DOTALL)
_PLAIN: Final = re.compile(r"\s*+([A-Za-z_][A-Za-z0-9_.-]*+):([^,\s]++)\s*+(?:,|\Z)")


def parse(comment_text: str) -> dict[str, str]:
    """The tags of one comment, given with or without its `/* */` or `--`. A comment that is not all tags gives `{}`."""
    body = comment_text[:MAX_COMMENT].strip()
    if body.startswith("/*") or body.startswith("--"):
        body = body[2:]
    body = body.removesuffix("*/").strip()
    pattern = _QUOTED if "='" in body or "= '" in body else _PLAIN
    out: dict[str, str] = {}
    position = 0
    while position < len(body) and len(out) < MAX_TAGS:
        found = pattern.match(body, position)
        if found is None:
            return {}
        key, value = found.groups()
        if pattern is _QUOTED:
            key, value = unquote(key), unquote(value.replace("\\'", "'"))
        out[key[:MAX_VALUE]] = value[:MAX_VALUE]
        position = found.end()
    return out


def merge(comments: list[str]) -> Mapping[str, str]:
    """The tags of several comments; of equal keys the last counts, but no hint takes back one that says something else than
    `cache`."""
    out: dict[str, str] = {}
    for comment in comments[:MAX_TAGS]:
        if ":" in comment or "=" in comment:
            hint = out.get(HINT)
            out.update(_hint(comment) or parse(comment))
            if hint is not None and not hint.startswith("cache"):
                out[HINT] = hint
    return out or NO_TAGS


def _hint(comment: str) -> dict[str, str]:
    """The tag of a comment that is a hint and nothing else; else `{}`."""
    if _HINT_START not in comment[: len(_HINT_START) + MAX_VALUE]:
        return {}
    body = comment[:MAX_COMMENT].strip()
    if body.startswith("/*") or body.startswith("--"):
        body = body[2:]
    body = body.removesuffix("*/").strip()
    if not body.startswith(_HINT_START) or "," in body:
        return {}
    return {HINT: " ".join(body[len(_HINT_START) :].split())[:MAX_VALUE]}


def trace_id(tags: Mapping[str, str]) -> str:
    """What names the request in a statement's tags: the trace id of a W3C `traceparent`, or a request id; else ""."""
    traceparent = tags.get("traceparent", "")
    if traceparent:
        parts = traceparent.split("-")
        return parts[1] if len(parts) >= 4 else traceparent
    for name in REQUEST_TAGS:
        value = tags.get(name, "")
        if value:
            return value
    return ""
