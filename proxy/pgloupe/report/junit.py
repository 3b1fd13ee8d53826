"""The report as JUnit XML, which every CI service can show: a finding is a failed test case.

Where nothing was found there is one case that passed, because a suite without cases is shown as missing or broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from pgloupe.report.wording import figures, headline, link, one_line, printable, summary, tags, title


def render(report: Mapping[str, Any]) -> str:
    """The report that `Report.to_dict` gives, as an XML document in ASCII."""
    findings = report["findings"]
    counts = {
        "tests": str(len(findings) or 1),
        "failures": str(len(findings)),
        "errors": "0",
        "skipped": "0",
        "time": f"{report['duration_s']:.3f}",
    }
    root = ET.Element("testsuites", {"name": "pgloupe", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "pgloupe", **counts})
    if not findings:
        ET.SubElement(suite, "testcase", {"classname": "pgloupe", "name": "nothing found", "time": "0.000"})
    for finding in findings:
        _case(suite, finding)
    ET.SubElement(suite, "system-out").text = summary(report)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
    return document.decode("ascii") + "\n"


def _case(suite: ET.Element, finding: Mapping[str, Any]) -> None:
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
        lines += ["", f"Instead: {printable(advice['text'])}", printable(advice["sql"])]
    failure = ET.SubElement(case, "failure", {"type": one_line(finding["rule"]), "message": sentence})
    failure.text = "\n".join(lines).rstrip()
