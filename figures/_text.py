"""Text whose numbers come from rows: a template holds placeholders (`figures._placeholders`), and `fill` puts in what
the rows say.

    {hits llm_bridge setup=2}                    a number, by its verb, an experiment and settings
    {hits llm_bridge setup=2 | seed=0 | seed=1}  cells of a table: what is before the first `|` is said to all
    {= 3.7 M}                                    a size, a setting or a version, written by hand: never a result

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
    """A filled template: its text, for the first row of each number the rows that it stands on, and the commands that
    would make the rows of the others."""

    text: str
    cited: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


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
        except NotMeasured as command:
            filled.missing.append(str(command))
            return f"({MISSING}: `{command}`)"
        if hashes:
            filled.cited[hashes[0]] = list(hashes)
        return f"[{text}](#row-{hashes[0]})" if linked and hashes else text

    filled.text = _said_once(PLACEHOLDER.sub(number, PLACEHOLDER.sub(_cells, template)))
    return filled


def _cells(match: re.Match[str]) -> str:
    """A placeholder of several cells as one a cell."""
    common, *cells = match[2].split("|")
    return " | ".join(f"{{{match[1]} {common}{cell}}}" for cell in cells) if cells else match[0]


def loose(template: str) -> list[str]:
    """The lines of a template that hold a digit outside a placeholder, where none is due."""
    for pattern in (PLACEHOLDER.pattern, *LOOSE):
        template = re.sub(pattern, lambda match: "\n" * match[0].count("\n"), template, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in template.splitlines() if re.search(r"\d", line)]


def _said_once(text: str) -> str:
    """Of rows that are missing, a point of a list or a paragraph says only that, after its lead in bold, and the first
    command; a table has a dash in their cells, and says it below."""
    parts = re.split(r"^(?=(?:- |\d+\. |$))", text, flags=re.MULTILINE)
    for i, part in enumerate(parts):
        missing = re.search(rf"\({MISSING}: (`[^`]+`)\)", part)
        if not missing:
            continue
        said = f"{MISSING.capitalize()}: {missing[1]}.\n"
        if part.startswith("\n|"):
            parts[i] = re.sub(rf"\({MISSING}: `[^`]+`\)", "–", part) + f"\n– {said}"
        elif lead := re.match(r"(?:- |\d+\. )\*\*.+?\*\*", part, re.DOTALL):
            parts[i] = f"{lead[0]} {said}"
        elif part.startswith("\n"):
            parts[i] = f"\n{said}"
    return "".join(parts)
