"""lora-reuse bridge_compiler first=spouse_of second=live_in examples=46 out=bridge.jsonl

Writes a bridge: a few examples with which two adapters of one hop each compose step by step. Each is a JSON object
{"prompt", "answer"} on a line of its own, the most useful first. Add them to the training data of one of the adapters,
train it again, and merge the two.

`first` and `second` are the wordings that the adapters were trained on: CSV files with the columns `question` and
`answer`, with {a} for who is asked about and {b} for the answer, or relations of our own (`llm/data/templates`). An
answer of the first has to describe {b}, as "The spouse of {a} is {b}.", because the two-hop questions are made of such
descriptions. `facts` are people, things and places that nobody will ask about: CSV with the columns a, b and c, where b
answers the first question about a, and c the second one about b; made-up names where no file is given. Facts of which a
name occurs in the text `avoid`, such as the adapters' training data, are left out. How many examples are enough is
measured by `lora-reuse bridge_examples`."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.llm.data.bridges import compiled, descriptions
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.names import FOLDER
from lora_reuse.llm.data.subsets import SPLITS, templates
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.files import write
from lora_reuse.runs.settings import SettingError, Text, Whole, setting

OURS = sorted(path.stem for path in (FOLDER / "templates").glob("*.csv") if "-" not in path.stem)


@dataclass(frozen=True)
class Options:
    """What the adapters were trained on, and how many examples to write."""

    first: str = setting("", Text("a CSV file or a relation"), "the first adapter's wordings")
    second: str = setting("", Text("a CSV file or a relation"), "the second adapter's wordings")
    facts: str = setting("", Text("a CSV file"), "facts that nobody will ask about; none: made-up ones")
    avoid: str = setting("", Text("a text file"), "a text of which no name may be in the bridge")
    examples: int = setting(46, Whole(1, 10**5), "examples to write")
    seed: int = setting(0, Whole(0, 10**6), "who goes with whom among made-up names")
    out: str = setting("", Text("a JSONL file"), "a new file")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or a file."""
    return with_options("llm.bridge_compiler", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    for name in ("first", "second", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    settings_are_right(options.out)
    first, second = (_wordings(name, getattr(options, name)) for name in ("first", "second"))
    if not descriptions(first):
        wanted = "an answer that describes {b}, as 'The spouse of {a} is {b}.'"
        raise SettingError("first", f"{options.first} without one", wanted, "add one to its wordings")
    facts = _facts(options)
    out = Path(options.out).expanduser()
    if out.exists():
        raise SettingError("out", out, "a new file", "nothing is overwritten")
    begin(options.out)
    made = compiled(first, second, facts, options.examples)
    lines = [json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False) + "\n" for prompt, answer in made]
    try:
        write(out, "".join(lines))
    except OSError as error:
        raise SettingError("out", f"{out} ({error.strerror})", "a file that can be written") from None
    used = min(len(made), len(facts))
    print(f"{out}: {len(made)} examples, of {used} facts, {min(len(made), len(first))} wordings of the first", end="")
    print(f" relation and {min(len(made), len(second))} of the second")
    return 0


def _wordings(name: str, given: str) -> Sequence[tuple[str, str]]:
    """The training templates of our own relation, or those of a file."""
    if given in OURS:
        return templates(given)[SPLITS["train"]]
    found = [
        (row["question"], row["answer"])
        for row in _read(name, given, ("question", "answer"), ", or " + ", ".join(OURS))
    ]
    for number, (question, answer) in enumerate(found, start=2):
        if "{a}" not in question or "{b}" in question or "{b}" not in answer:
            got = f"{question!r}, {answer!r}"
            raise SettingError(f"{given}:{number}", got[:120], "{a} in the question, {b} in the answer alone")
    return found


def _facts(options: Options) -> list[Triplet]:
    """The facts of the bridge, without those that are to be avoided."""
    found = list(triplets("F", options.seed))
    if options.facts:
        rows = _read("facts", options.facts, ("a", "b", "c"))
        found = [Triplet(row["a"], row["b"], row["c"], "", "") for row in rows]
    if options.avoid:
        text = _text("avoid", options.avoid)
        found = [t for t in found if not any(name in text for name in (t.a, t.b, t.c))]
    if not found:
        raise SettingError("facts", f"{options.facts or 'made-up ones'}, all of them in {options.avoid}", "other names")
    return found


def _read(name: str, path: str, columns: Sequence[str], allowed: str = "") -> list[dict[str, str]]:
    """The lines of a CSV file with these columns, all of them filled."""
    wanted = f"a CSV file with the columns {' and '.join(columns)}{allowed}"
    lines = list(csv.DictReader(_text(name, path, wanted).splitlines()))
    if not lines or any(not line.get(column) for line in lines for column in columns):
        raise SettingError(name, f"{path}, which has not", wanted)
    return lines


def _text(name: str, path: str, wanted: str = "a text file") -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(name, f"{path} ({type(error).__name__})", wanted) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
