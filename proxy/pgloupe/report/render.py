"""One function that writes a report in any of its formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TextIO

from rich.console import Console

from pgloupe.report import github, junit, markdown, sarif, text

FORMATS: Final = ("text", "json", "markdown", "sarif", "junit", "github")


def render(report: Mapping[str, Any], format: str, stream: TextIO) -> None:
    """Write the report that `Report.to_dict` gives to `stream`.

    `format` is one of `FORMATS`, ValueError otherwise. Text has colour where the stream is a terminal. Characters that the
    stream's encoding lacks become `?`; JSON, SARIF and JUnit are ASCII.
    """
    if format == "text":
        text.render(report, Console(file=stream))
    elif format == "json":
        stream.write(json.dumps(report, indent=2) + "\n")
    elif format == "markdown":
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(markdown.render(report, encoding).encode(encoding, "replace").decode(encoding))
    elif format == "github":
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(github.render(report).encode(encoding, "replace").decode(encoding))
    elif format == "sarif":
        stream.write(sarif.render(report))
    elif format == "junit":
        stream.write(junit.render(report))
    else:
        raise ValueError(f"unknown format {format!r}: it is one of {', '.join(FORMATS)}")
