"""Reports for the tests of the renderers."""

from __future__ import annotations

from typing import Any

from pgloupe.report.model import Report
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Severity

HOSTILE = "a\x1b[31m\x00\u202e\udc80`` ``` </failure>]]> <b> **x** \r\nend"
"""Text that a terminal, XML, Markdown or an encoder would trip over."""


def empty() -> dict[str, Any]:
    return Report().to_dict(statements=120, sessions=4, duration_s=3.21)


def full() -> dict[str, Any]:
    """An N+1 with everything known, a redundant query and a slow query of which little is known."""
    report = Report()
    for _ in range(3):
        report.add(
            [
                Finding(
                    "n_plus_one",
                    Severity.ERROR,
                    Confidence.PROVEN,
                    "c0ffee0000000001",
                    "SELECT id, body FROM comment WHERE post_id = $1",
                    ("comment",),
                    8,
                    8,
                    4.5,
                    7,
                    Parent("c0ffee0000000002", "SELECT id, title FROM post WHERE author_id = $1", ("post",), "id", 8),
                    Child(1, "post_id"),
                    Advice(
                        "any_array",
                        "SELECT id, body, post_id FROM comment WHERE post_id = ANY($1)",
                        "Collect the ids of the posts and fetch all their comments with one query.",
                    ),
                    {"application_name": ["shop"], "route": ["/posts"]},
                    ["SELECT id, body FROM comment WHERE post_id = 17"],
                )
            ]
        )
    report.add(
        [
            Finding(
                "redundant_query",
                Severity.WARNING,
                Confidence.LIKELY,
                "c0ffee0000000003",
                "SELECT * FROM setting WHERE name = $1",
                ("setting",),
                4,
                1,
                2.0,
                3,
                advice=Advice("reuse", "", "Keep the first answer."),
            ),
            Finding(
                "slow_query",
                Severity.INFO,
                Confidence.PROVEN,
                "c0ffee0000000004",
                "SELECT count(*) FROM event",
                (),
                1,
                1,
                12_345.6,
                0,
            ),
        ]
    )
    return report.to_dict(statements=1234, sessions=4, duration_s=3.21, show_values=False)


def hostile() -> dict[str, Any]:
    """Every text in it is `HOSTILE`."""
    report = Report()
    report.add(
        [
            Finding(
                HOSTILE,
                Severity.ERROR,
                Confidence.PROVEN,
                HOSTILE,
                HOSTILE,
                (HOSTILE,),
                2,
                2,
                1.0,
                1,
                Parent(HOSTILE, HOSTILE, (HOSTILE,), HOSTILE, 2),
                Child(1, HOSTILE),
                Advice("join", HOSTILE, HOSTILE),
                {HOSTILE: [HOSTILE], "file": [HOSTILE], "line": ["x"]},
                [HOSTILE + "sample"],
            )
        ]
    )
    return report.to_dict(statements=2, sessions=1, duration_s=0.1, show_values=True)
