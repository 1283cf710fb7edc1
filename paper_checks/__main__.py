"""lora-reuse paper_checks [only=ID+ID] [out=results/paper]

Measures every claim of the paper and tries every planted mistake on it. The ledger is printed as a table and written as
Markdown and HTML."""

import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.paper_checks.claims import FALSE_FAILURE
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.files import write
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.settings import SettingError, Text, did_you_mean, setting


@dataclass(frozen=True)
class Options:
    """The ledger:"""

    only: str = setting("all", Text("ids of claims joined by +, or all"), "which claims to check")
    out: str = setting("results/paper", Text(), "folder for ledger.md and ledger.html")


@dataclass(frozen=True)
class Entry:
    """One claim as checked."""

    id: str
    where: str
    statement: str
    verdict: str
    says: str
    how: str
    false_failure: float
    evidence: list[tuple[str, float, float, str, bool]]
    mutants: list[tuple[str, bool]]

    @property
    def holds(self) -> bool:
        """Every comparison within its error, every planted mistake rejected, and a right program hardly ever failed."""
        kept = all(e[4] for e in self.evidence) and all(m[1] for m in self.mutants)
        return kept and self.false_failure < FALSE_FAILURE


def main(words: Sequence[str]) -> int:
    """Runs the command: 0 if everything holds, 1 if something does not, 2 for a mistake in the settings."""
    return with_options("paper_checks", _main, Options, words)


def _main(options: Options) -> int:
    entries = _check(options)
    disagreements = _disagreements()
    print(_terminal(entries))
    if options.only == "all":
        try:
            folder = Path(options.out)
            write(folder / "ledger.md", _markdown(entries, disagreements))
            write(folder / "ledger.html", _page(entries, disagreements))
        except OSError as error:
            raise SettingError("out", f"{options.out} ({error.strerror})", "a folder that can be written") from None
        print(
            f"\nwritten to {folder / 'ledger.md'} and {folder / 'ledger.html'}; {len(disagreements)} disagreements"
            " among the paper's own numbers"
        )
    return 0 if all(entry.holds for entry in entries) else 1


def _check(options: Options) -> list[Entry]:

    from lora_reuse.paper_checks import load_claims
    from lora_reuse.paper_checks.claims import CLAIMS, false_failure, rejected

    load_claims()
    names = list(CLAIMS) if options.only == "all" else list(dict.fromkeys(options.only.split("+")))
    for name in names:
        if name not in CLAIMS:
            allowed = f"all, or ids of claims joined by +: {', '.join(CLAIMS)}"
            raise SettingError("only", repr(name), allowed, did_you_mean(name, CLAIMS))
    settings_are_right(options.out)
    out = Path(options.out)
    if not next(path for path in (out, *out.parents) if path.exists()).is_dir():
        raise SettingError("out", f"{options.out} (it is or lies in a file)", "a folder that can be written")
    begin(options.out)
    entries = []
    for name in progress_bar(names, desc="claims", unit=" claims"):
        claim = CLAIMS[name]
        found = claim.measure()
        evidence = [(e.what, e.shown, e.predicted, e.error, e.holds) for e in found]
        mutants = [(mutant, rejected(claim, mutant)) for mutant in claim.mutants]
        how, rate = " ".join((claim.measure.__doc__ or "").split()), false_failure(found)
        entries.append(
            Entry(name, claim.where, claim.statement, claim.verdict, claim.says, how, rate, evidence, mutants)
        )
    return entries


def _disagreements() -> list[str]:
    from lora_reuse.paper_checks.reported.agreement import repeated_numbers, statements
    from lora_reuse.paper_checks.reported.arithmetic import arithmetic
    from lora_reuse.paper_checks.reported.counts import counts

    found = [*repeated_numbers(), *statements(), *arithmetic(), *counts()]
    return [f"{d.where_a}: {d.value_a}; {d.where_b}: {d.value_b} ({d.why})" for d in found]


def _terminal(entries: Sequence[Entry]) -> str:
    lines = []
    for entry in entries:
        rejected = sum(ok for _, ok in entry.mutants)
        state = entry.verdict if entry.holds else "DOES NOT HOLD"
        lines.append(f"{entry.id}  ({entry.where})  {state}; {rejected}/{len(entry.mutants)} planted mistakes rejected")
        lines += [
            f"    {w:<58}  {m:>11.6g} {e:<18} predicted {p:<11.6g}{'' if ok else '  <-- off'}"
            for w, m, p, e, ok in entry.evidence
        ]
    verdicts = {
        verdict: sum(e.verdict == verdict and e.holds for e in entries)
        for verdict in dict.fromkeys(e.verdict for e in entries)
    }
    return "\n".join(
        [*lines, "", f"{len(entries)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())]
    )


def _rate(entry: Entry) -> str:
    return f"{entry.false_failure:.0e}" if entry.false_failure else "0, identities only"


def _markdown(entries: Sequence[Entry], disagreements: Sequence[str]) -> str:
    lines = [
        "# The claims of the paper, checked",
        "",
        "Made by `python -m paper_checks`. Each comparison is a measurement against a prediction with a predicted"
        " standard error, or an identity with its tolerance; a right program fails a claim less than once in a million"
        " runs. A planted mistake is a bug that the check must reject.",
        "",
        "| claim | where | verdict | planted mistakes rejected |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        state = entry.verdict if entry.holds else "**does not hold**"
        lines.append(
            f"| [{entry.id}](#{entry.id}) | {entry.where} | {state} | {sum(ok for _, ok in entry.mutants)} of"
            f" {len(entry.mutants)} |"
        )
    for entry in entries:
        lines += ["", f"## {entry.id}", "", f"*{entry.where}*: {entry.statement}", ""]
        lines += [f"**{entry.verdict.capitalize()}**{': ' + entry.says if entry.says else ''}.", ""]
        lines += [
            f"Measured: {entry.how} False-failure rate {_rate(entry)}.",
            "",
            "| | measured | | predicted |",
            "|---|---|---|---|",
        ]
        cells = [(w.replace("|", "\\|"), *rest) for w, *rest in entry.evidence]
        lines += [f"| {w} | {m:.6g} | {e} | {p:.6g} |{'' if ok else ' **off**'}" for w, m, p, e, ok in cells]
        lines += [
            "",
            "Planted mistakes: "
            + ", ".join(f"{name} ({'rejected' if ok else 'NOT REJECTED'})" for name, ok in entry.mutants)
            + ".",
        ]
    lines += [
        "",
        "## The paper's own numbers",
        "",
        "Where Tables 1, 2, 7, 8, 9, 10 and the text repeat a number, or print one that is no count:",
        "",
    ]
    return "\n".join([*lines, *(f"- {line}" for line in disagreements or ["no disagreement found"]), ""])


def _page(entries: Sequence[Entry], disagreements: Sequence[str]) -> str:
    def cells(*values: str, tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>The claims of the paper, checked</title>",
        "<style>body{font:16px/1.5 Georgia,serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}"
        "td,th{border-bottom:1px solid #ccc;padding:.2rem .5rem;text-align:left;vertical-align:top}"
        ".wide{overflow-x:auto}</style>",
        "<h1>The claims of the paper, checked</h1><p>Made by <code>python -m paper_checks</code>.</p>"
        "<div class=wide><table>",
        cells("claim", "where", "verdict", "planted mistakes rejected", tag="th"),
        *(
            cells(
                e.id,
                e.where,
                e.verdict if e.holds else "does not hold",
                f"{sum(ok for _, ok in e.mutants)} of {len(e.mutants)}",
            )
            for e in entries
        ),
        "</table></div>",
    ]
    for entry in entries:
        says = f": {html.escape(entry.says)}" if entry.says else ""
        parts += [
            f"<h2>{entry.id}</h2><p><i>{html.escape(entry.where)}</i>: {html.escape(entry.statement)}</p>"
            f"<p><b>{entry.verdict}</b>{says}.</p>"
        ]
        parts += [f"<p>Measured: {html.escape(entry.how)} False-failure rate {_rate(entry)}.</p>"]
        parts += ["<div class=wide><table>", cells("", "measured", "", "predicted", tag="th")]
        parts += [cells(w, f"{m:.6g}", e, f"{p:.6g}" + ("" if ok else " off")) for w, m, p, e, ok in entry.evidence]
        parts += [
            "</table></div>",
            "<p>Planted mistakes: "
            + html.escape(", ".join(f"{n} ({'rejected' if ok else 'NOT REJECTED'})" for n, ok in entry.mutants))
            + ".</p>",
        ]
    parts += [
        "<h2>The paper's own numbers</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in disagreements),
        "</ul></html>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
