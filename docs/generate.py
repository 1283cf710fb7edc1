"""python -m docs.generate

Writes what the documentation does not say by hand into docs/generated: the settings of every command, from its
`--help`; the page of results, its figures and its tables; the claims and the predictions."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_reuse.__main__ import commands, first_sentence
from lora_reuse.theory.settings import EXPERIMENTS

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "generated"
FIGURES, ROWS = ROOT / "results" / "figures", ROOT / "results" / "paper"
PAGES = ("commands.md", "results.md", "figures.md", "tables.md", "ledger.md", "predictions.md")


def main() -> None:
    """Writes every file again."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    pages = (
        results() | {"commands.md": settings()} | {f"{name}.md": written(name) for name in ("ledger", "predictions")}
    )
    for name in PAGES:
        (OUT / name).write_text(pages[name], encoding="utf-8")
    shutil.copytree(FIGURES, OUT / "figures", ignore=shutil.ignore_patterns("*.md"))


def settings() -> str:
    """The page of commands: the help of each as it is printed, and of each experiment of the theory."""
    found = commands()
    words = [(name,) for name in found if name != "sweep"]
    words += [("sweep", f"experiment={experiment}") for experiment in EXPERIMENTS]
    with ThreadPoolExecutor(2) as pool:
        printed = dict(zip(words, pool.map(help_of, words), strict=True))
    text = (
        "# Commands\n\nEvery command is `lora-reuse COMMAND key=value ...`, and prints its settings with `--help`. This"
        " page is what they print: a setting, its default, what is allowed, and what it means. Where the help says so,"
        " a setting is a list with commas, and then it is an axis of a grid.\n\n| command | what it does |\n|---|---|\n"
    )
    for name, (_, path) in found.items():
        text += f"| [`{name}`](#{name.replace('.', '')}) | {first_sentence(path)} |\n"
    for name in found:
        text += f"\n## {name}\n"
        for word in words:
            if word[0] == name:
                text += (f"\n### {word[1]}\n" if len(word) > 1 else "") + f"\n```text\n{printed[word]}\n```\n"
    return text


def help_of(words: tuple[str, ...]) -> str:
    """What `lora-reuse WORDS --help` prints."""
    run = [sys.executable, "-m", "lora_reuse", *words, "--help"]
    return subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def results() -> dict[str, str]:
    """The page of results as three: what was found, the figures, the tables; a number links to its row on the page."""
    text = linked((FIGURES / "report.md").read_text(encoding="utf-8"))
    heads = r"^## (?:Figures|Tables|The paper's claims)$"
    found, figures, tables, *_ = re.split(heads, text, flags=re.MULTILINE)
    link = r"^The table, \d+ lines, is on \[its own page\]\((\w+)\.md\)\.$"
    tables = re.sub(link, very_long, tables, flags=re.MULTILINE)
    found = re.sub(r"^# .*\n|^\[.* · .*\n", "", found, flags=re.MULTILINE)  # the title and the contents
    whole = "The same with every row behind every number, as one file that a browser opens without a network, is"
    return {
        "results.md": f"# Results\n\n{whole} [the page of results](figures/report.html).\n{found}",
        "figures.md": "# Figures\n" + figures.replace("\n### ", "\n## "),
        "tables.md": "# Tables\n" + tables.replace("\n### ", "\n## "),
    }


def very_long(link: re.Match[str]) -> str:
    """A table that the page of results only links to; its rows are on its own page."""
    text, _, _ = (FIGURES / f"{link[1]}.md").read_text(encoding="utf-8").partition("\n## Rows\n")
    cell = r"\[((?:[^][]|\[[^]]*\])+)\]\(#row-\w+\)"  # an interval has brackets of its own
    return re.sub(cell, r"\1", text[text.index("\n| ") :]).strip()


def linked(text: str) -> str:
    """Links to files beside the page lead to figures/, and those to rows to the page."""
    text = re.sub(r"\]\(#(row-\w+)\)", r"](figures/report.html#\1)", text)
    text = re.sub(r"\]\((\w+\.(?:png|pdf|csv|tex|html))\)", r"](figures/\1)", text)
    return text.replace("<details>", '<details markdown="1">')


def written(name: str) -> str:
    """A page of the checks, as it is."""
    return linked((ROWS / f"{name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
