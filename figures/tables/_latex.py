"""A table as LaTeX that fits the text's width of TMLR: plain `tabular`, no package, as many under one another as the
columns need."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

TEXT = 468.0
"""Points: TMLR's text is 6.5 inches wide."""
SEPARATION = 3.0
"""Points on either side of a column."""
WIDTHS = {
    **dict.fromkeys("!',.:;[]il", 2.27),
    **dict.fromkeys(" -fj\N{NO-BREAK SPACE}", 2.7),
    **dict.fromkeys("_I", 2.9),
    **dict.fromkeys("()rts", 3.2),
    **dict.fromkeys("cez?", 3.78),
    **dict.fromkeys('"$*/0123456789^`ago~–†', 4.0),
    **dict.fromkeys("J\\{}kqvxy", 4.2),
    **dict.fromkeys("Sbdhnpu", 4.45),
    **dict.fromkeys("ZLλ", 4.95),
    **dict.fromkeys("EFP", 5.4),
    **dict.fromkeys("BCRTw", 5.82),
    **dict.fromkeys("M", 7.2),
    **dict.fromkeys("|W→∞", 8.1),
}
"""Points of a character of Computer Modern in \\scriptsize of a 10-point class (cmr7), as LaTeX's \\settowidth has
them, rounded up by 0.06 at most; of others, the widest of the rest."""
OTHER = 6.6
LABELS, HEAD, CELL = (150.0, 100.0, 72.0), 60.0, 58.0
"""Points to which labels are broken, the widest first that fits; heads of columns; and what a cell says."""
LINE, PAGE, CAPTION = 9.5, 600.0, 12 * 1.35 / TEXT
"""Points of a line; of what stands on a page, at most; and of a caption, whose letters are wider and its lines 12
points apart, for a point of the same text on one line in \\scriptsize."""


def width(text: str) -> float:
    """Points that a text takes; LaTeX takes no more, and less where it kerns."""
    return sum(WIDTHS.get(character, OTHER) for character in text)


def broken(text: str, limit: float) -> list[str]:
    """A text in lines of at most `limit` points where it can be broken: after a space, a hyphen or a slash, and in a
    word that is longer than a line after an underscore."""
    lines: list[str] = []
    for word in re.findall(r"[^-/ ]+[-/ ]?|[-/ ]", text):
        for part in [word] if width(word.rstrip()) <= limit else re.findall(r"[^_]+_?|_", word):
            if lines and width((lines[-1] + part).rstrip()) <= limit:
                lines[-1] += part
            else:
                lines.append(part)
    return [line.rstrip() for line in lines] or [""]


def above(caption: str) -> float:
    """Points that a page has above a caption."""
    return max(PAGE - CAPTION * width(caption), PAGE / 6)


def tabulars(
    names: Sequence[str],
    labels: Sequence[Sequence[str]],
    heads: Sequence[str],
    cells: Sequence[Sequence[Sequence[str]]],
    tall: float,
) -> list[tuple[str, float]]:
    """The `tabular`s of a table and their heights in points: its label columns and their names, then a column each of
    `heads`. Columns that do not fit beside one another go on in another, behind the labels again, and so do lines that
    are more than `tall` points high."""
    told = [[_Text([line for part in parts for line in broken(part, CELL)]) for parts in line] for line in cells]
    wide = [max([text.width for text in column], default=0.0) for column in zip(*told, strict=True)]
    tops = [_Text(broken(head, max(cell, HEAD))) for cell, head in zip(wide, heads, strict=True)]
    wide = [max(cell, top.width) for cell, top in zip(wide, tops, strict=True)]
    taken = [points + 2 * SEPARATION for points in wide]
    limit = next((limit for limit in LABELS if _room(names, labels, limit) >= sum(taken)), LABELS[-1])
    first, *said = _labels(names, labels, limit)
    found = []
    for columns in _spans(taken, _room(names, labels, limit)):
        head = [*first, *tops[columns]]
        lines = [[*label, *line[columns]] for label, line in zip(said, told, strict=True)]
        for some in _spans([_height(line) for line in lines], tall - _height(head)):
            part = lines[some]
            rule = [
                r"\hline",
                " & ".join(map(str, head)) + r" \\",
                r"\hline",
                *(" & ".join(map(str, line)) + r" \\" for line in part),
                r"\hline",
            ]
            text = "\n".join([rf"\begin{{tabular}}{{{'l' * len(head)}}}", *rule, r"\end{tabular}"])
            found.append((text, sum(map(_height, [head, *part]))))
    return found


def _labels(names: Sequence[str], labels: Sequence[Sequence[str]], limit: float) -> list[list["_Text"]]:
    return [[_Text(broken(label, limit)) for label in line] for line in (names, *labels)]


def _room(names: Sequence[str], labels: Sequence[Sequence[str]], limit: float) -> float:
    """Points that are left beside the labels."""
    return TEXT - sum(
        max(text.width for text in column) + 2 * SEPARATION
        for column in zip(*_labels(names, labels, limit), strict=True)
    )


def floats(parts: Sequence[tuple[str, float]], caption: str) -> str:
    """`table`s of these `tabular`s, as many as pages are needed; the caption stands under the first."""
    start = [r"\begin{table}", r"\scriptsize", rf"\setlength{{\tabcolsep}}{{{SEPARATION:g}pt}}"]
    lines: list[str] = []
    for i, place in enumerate(_spans([height for _, height in parts], PAGE, above(caption))):
        said = [r"\addtocounter{table}{-1}", r"\caption{(continued)}"] if i else [rf"\caption{{{caption}}}"]
        lines += [*start, "\\\\[2ex]\n".join(text for text, _ in parts[place]), *said, r"\end{table}"]
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class _Text:
    """The lines of one cell."""

    lines: Sequence[str]

    @property
    def width(self) -> float:
        return max(map(width, self.lines), default=0.0)

    def __str__(self) -> str:
        said = [escaped(line) for line in self.lines]
        return said[0] if len(said) == 1 else r"\shortstack[l]{" + r" \\ ".join(said) + "}" if said else ""


def _height(line: Sequence[_Text]) -> float:
    return LINE * max(len(text.lines) for text in line)


def _spans(sizes: Sequence[float], room: float, first: float | None = None) -> list[slice]:
    """What fits together, in order: in `first` what is first, in `room` the others. What fits nowhere stands alone."""
    spans, start, taken = [], 0, 0.0
    for i, size in enumerate(sizes):
        taken += size
        if taken > (first if first and not spans else room) and i > start:
            spans.append(slice(start, i))
            start, taken = i, size
    return [*spans, slice(start, len(sizes))]


def command(words: str) -> str:
    """A command in typewriter letters, which may go on in another line within a word."""
    return r"\texttt{" + re.sub(r"([/=+,]|\\_)", r"\1\\allowbreak{}", escaped(words)) + "}"


_TEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    },
    **{
        "≤": r"$\leq$",
        "λ": r"$\lambda$",
        "→": r"$\to$",
        "∞": r"$\infty$",
        "×": r"$\times$",
        "−": "$-$",
        "α": r"$\alpha$",
        "–": "--",
        "†": r"$\dagger$",
    },
    **{"\N{NO-BREAK SPACE}": "~", "`": r"\textasciigrave{}"},
}


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_TEX.get(c, c) for c in str(text))
