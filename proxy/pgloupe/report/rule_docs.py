"""What users read about a rule: the head of the rule's own file, so that there is one text and it stands by the code.

It is read from the source and not from `__doc__`, which neither a compiled module nor `python -OO` has. Its form: a first line
`name: sentence`, then sections, each a heading at the margin and indented paragraphs under it. What stands under `Example` is
shown line by line, the other sections are filled.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from rich.console import Console
from rich.markdown import Markdown

from pgloupe.errors import SettingsError

FILES: Final = {
    "n_plus_one": "n_plus_one.py",
    "n_plus_one_write": "write_loop.py",
    "redundant_query": "redundant.py",
    "slow_query": "slow.py",
}
VERBATIM: Final = "Example"


@dataclass(frozen=True, slots=True)
class RuleDoc:
    """The documentation of one rule. `sections` are pairs of heading and text without its indent."""

    name: str
    sentence: str
    sections: tuple[tuple[str, str], ...]

    def markdown(self, level: int = 1) -> str:
        """As Markdown, its title a heading of `level`."""
        mark = "#" * level
        lines = [f"{mark} {self.name}", "", _fill(self.sentence), ""]
        for heading, text in self.sections:
            lines += [f"{mark}# {heading}", ""]
            lines += ["```sql", text, "```", ""] if heading == VERBATIM else [_fill(text), ""]
        return "\n".join(lines)

    def plain(self) -> str:
        """As in the file."""
        lines = [f"{self.name}: {self.sentence}", ""]
        for heading, text in self.sections:
            lines += [heading, *(f"    {line}".rstrip() for line in text.splitlines()), ""]
        return "\n".join(lines)


def rule_doc(name: str) -> RuleDoc:
    """The documentation of a rule. Raises SettingsError for one that does not exist."""
    file = FILES.get(name)
    if file is None:
        known = difflib.get_close_matches(name.lower().replace("-", "_").replace("+", "_plus_"), FILES, 1, 0.4)
        hint = f"did you mean {known[0]!r}? " if known else ""
        raise SettingsError(f"there is no rule {name!r}; {hint}The rules are {', '.join(FILES)}")
    source = resources.files("pgloupe_rules").joinpath(file).read_text(encoding="utf-8")
    return parse(ast.get_docstring(ast.parse(source)) or "")


def all_docs() -> list[RuleDoc]:
    return [rule_doc(name) for name in FILES]


def parse(text: str) -> RuleDoc:
    """A docstring of the form that the head of this module describes, without its indent."""
    title, _, body = text.partition("\n\n")
    name, _, sentence = " ".join(title.split()).partition(": ")
    sections: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line and not line[0].isspace():
            sections.append((line.strip(), []))
        elif sections:
            sections[-1][1].append(line.removeprefix("    "))
    return RuleDoc(
        name,
        sentence[:1].upper() + sentence[1:],
        tuple((heading, "\n".join(lines).strip("\n")) for heading, lines in sections),
    )


def _fill(text: str) -> str:
    """Paragraphs as one line each; lists stay."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(re.sub(r"\n(?!\s*[-*] )\s*", " ", paragraph) for paragraph in paragraphs)


def markdown() -> str:
    """docs/rules.md."""
    lines = [
        "# Rules",
        "",
        "What pgloupe looks for. `pgloupe rule NAME` prints the same; `pgloupe rule --markdown > docs/rules.md` writes this page.",
        "",
        *(f"- [{doc.name}](#{doc.name}): {doc.sentence}" for doc in all_docs()),
        "",
        *(doc.markdown(2) for doc in all_docs()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def show(name: str | None, console: Console) -> None:
    """Print one rule, or the list: with headings and colours on a terminal, as in the file where it is none. Raises
    SettingsError for a rule that does not exist."""
    if name is None:
        width = max(map(len, FILES))
        for doc in all_docs():
            console.print(f"{doc.name:<{width}}  {doc.sentence}", markup=False, highlight=False, soft_wrap=True)
        return
    doc = rule_doc(name)
    if console.is_terminal:
        console.print(Markdown(doc.markdown(), code_theme="ansi_dark"), width=min(console.width, 100))
    else:
        console.print(doc.plain().rstrip(), markup=False, highlight=False, soft_wrap=True)
