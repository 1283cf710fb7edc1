"""Text whose numbers come from rows: a template holds placeholders (`figures._placeholders`), and `fill` puts in what
the rows say.

    {hits llm_bridge setup=2}    a number, by its verb, an experiment and settings
    {= 3.7 M}                    a size, a setting or a version, written by hand: never a result

Rows that are missing are replaced by the command that makes them."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from lora_reuse.figures._placeholders import VERBS, NotMeasured

PLACEHOLDER = re.compile(r"\{(=|[a-z]+) ([^{}]+)\}")
MISSING = "not measured yet"
LOOSE = (
    r"<!--.*?-->|^```.*?^```|`[^`\n]+`|\]\([^)]*\)|^\d+\. ",
    r"(?i)\b(?:tables?|figures?|theorems?|propositions?|python|eq\.|sections?|setups?)"
    r" \d[\d.]*(?:(?:,| and| or| to) \d[\d.]*)*",
    r"\bA\.\d[\d.]*|\b[A-Za-z]\w*\d[\w-]*",
)
"""What may hold digits outside a placeholder: comments, code, addresses, numbers of points, what follows a word of
reference, and names."""


@dataclass
class Filled:
    """A filled template: its text, and for the first row of each number the rows that it stands on."""

    text: str
    cited: dict[str, list[str]] = field(default_factory=dict)


def fill(template: str, rows: Path, linked: bool = False) -> Filled:
    """The template with its numbers; `linked` to `#row-HASH`. Raises ValueError for a placeholder that it does not
    know."""
    filled = Filled("")

    def number(match: re.Match[str]) -> str:
        verb, words = match[1], match[2].strip()
        if verb == "=":
            return words
        if verb not in VERBS:
            raise ValueError(f"{match[0]}: got {verb!r}; allowed: {', '.join(VERBS)}, =")
        try:
            text, hashes = VERBS[verb](rows, shlex.split(words))
        except NotMeasured as missing:
            return f"({MISSING}: `{missing}`)"
        if hashes:
            filled.cited[hashes[0]] = list(hashes)
        return f"[{text}](#row-{hashes[0]})" if linked and hashes else text

    filled.text = _whole_points(PLACEHOLDER.sub(number, template))
    return filled


def loose(template: str) -> list[str]:
    """The lines of a template that hold a digit outside a placeholder, where none is due."""
    for pattern in (PLACEHOLDER.pattern, *LOOSE):
        template = re.sub(pattern, lambda match: "\n" * match[0].count("\n"), template, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in template.splitlines() if re.search(r"\d", line)]


def _whole_points(text: str) -> str:
    """A point of a list that says something of rows that are missing says only that, after its lead in bold, and the
    first command."""
    points = re.split(r"^(?=(?:- |\d+\. |$))", text, flags=re.MULTILINE)
    for i, point in enumerate(points):
        lead, missing = (
            re.match(r"(?:- |\d+\. )\*\*.+?\*\*", point, re.DOTALL),
            re.search(rf"\({MISSING}: (`[^`]+`)\)", point),
        )
        if lead and missing:
            points[i] = f"{lead[0]} {MISSING.capitalize()}: {missing[1]}.\n"
    return "".join(points)
