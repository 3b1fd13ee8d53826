"""The report as JUnit XML, which every CI service can show: a finding that fails the check is a failed test case, one that is
known or does not fail a skipped one, and one that is fixed a case that passed. Names are the same from run to run.

Where nothing was found there is one case that passed, because a suite without cases is shown as missing or broken; where nothing
was checked it is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from pgloupe.report.wording import (
    example,
    figures,
    fixed,
    headline,
    judged,
    link,
    one_line,
    place_figures,
    place_headline,
    place_name,
    places,
    printable,
    summary,
    tags,
    title,
)
from pgloupe.report.wording import verdict as outcome


def render(report: Mapping[str, Any]) -> str:
    """The report that `Report.to_dict` gives, as an XML document in ASCII."""
    suite = ET.Element("testsuite", {"name": "pgloupe"})
    for finding, verdict in judged(report):
        _case(suite, finding, verdict)
    for place in places(report):
        _place(suite, place, report["budget"]["max_queries"])
    for line in fixed(report):
        ET.SubElement(suite, "testcase", {"classname": "pgloupe.fixed", "name": line, "time": "0.000"})
    if not len(suite):
        case = ET.SubElement(suite, "testcase", {"classname": "pgloupe", "name": "nothing found", "time": "0.000"})
        if report.get("check") and not report["statements"]:
            ET.SubElement(case, "skipped", {"message": outcome(report)})
    counts = {
        "tests": str(len(suite)),
        "failures": str(len(suite.findall("./testcase/failure"))),
        "errors": "0",
        "time": f"{report['duration_s']:.3f}",
    }
    suite.attrib.update(counts, skipped=str(len(suite.findall("./testcase/skipped"))))
    ET.SubElement(suite, "system-out").text = summary(report)
    root = ET.Element("testsuites", {"name": "pgloupe", **counts})
    root.append(suite)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
    return document.decode("ascii") + "\n"


def _place(suite: ET.Element, place: Mapping[str, Any], max_queries: int) -> None:
    name = (
        f"{place_name(place)} [{one_line(place['id'], 200)}]" if place["id"].startswith("query=") else place_name(place)
    )
    case = ET.SubElement(
        suite,
        "testcase",
        {"classname": "pgloupe.max_queries", "name": name, "time": f"{place['total_ms'] / 1000:.3f}"},
    )
    sentence = place_headline(place, max_queries)
    if not place.get("fails", True):
        ET.SubElement(case, "skipped", {"message": f"known: {sentence}"})
        return
    lines = [f"{sentence}, {place_figures(place)}"]
    lines += [f"{name}: {values}" for name, values in tags(place)]
    lines += [f"{template['count']:,} x {printable(template['template'], 2000)}" for template in place["templates"]]
    failure = ET.SubElement(case, "failure", {"type": "max_queries", "message": sentence})
    failure.text = "\n".join(lines)


def _case(suite: ET.Element, finding: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
    sentence = headline(finding)
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": f"pgloupe.{one_line(finding['rule'])}",
            # The fingerprint makes the name the finding's own, so that a service can follow it from run to run.
            "name": f"{sentence} [{one_line(finding['fingerprint'])}]",
            "time": f"{finding['total_ms'] / 1000:.3f}",
        },
    )
    if not verdict["fails"]:
        why = "known" if verdict["status"] == "known" else "does not fail the check"
        ET.SubElement(case, "skipped", {"message": f"{why}: {figures(finding)}"})
        return
    kind = f"{finding['severity']}, {finding['confidence']}"
    lines = [f"{title(finding['rule'])} ({one_line(kind)}): {sentence}", figures(finding)]
    columns = link(finding)
    if columns:
        lines.append(columns)
    lines += [f"{name}: {values}" for name, values in tags(finding)]
    parent, advice = finding["parent"], finding["advice"]
    if parent is not None:
        lines += ["", f"Parent: {printable(parent['template'], 2000)}"]
    lines += ["", f"Query: {printable(finding['template'], 2000)}"]
    if advice is not None:
        lines += ["", f"Instead: {printable(advice['text'])}", printable(advice["sql"]), example(finding)]
    failure = ET.SubElement(case, "failure", {"type": one_line(finding["rule"]), "message": sentence})
    failure.text = "\n".join(lines).rstrip()
