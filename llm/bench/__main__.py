"""lora-reuse bench rule=my_rule.py

How good is a rule of composition? It is scored over libraries whose precondition is known: two facts of a chain in two
experts, with a bridge in neither, in one, in both, and in the base's pretraining where that is known; a fact and a
form; a new fact and a known one; three experts. A rule is one of ours by its name, one that learns as NAME:own, or a
Python file of one's own (docs/extend/rule.md); a rule of PEFT, mergekit or any other software is a file that calls it.
Rules have their dials at their defaults.

The score is the mean over libraries of (rule - floor)/(ceiling - floor): the floor is the control of the library, the
ceiling one adapter on all the data, an expert on the answers where that answers nothing, or for a known fact its expert
alone. The experts are trained once, and rows that are in out= or in rows= are not made again, so that a second rule
costs its own answers. A file is known by what it holds: change it, and it is another rule."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.protocols.settings import PATH
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.settings import Flag, Place, SettingError, Text, Whole, did_you_mean, setting


@dataclass(frozen=True)
class Options:
    """What to score, and where the rows are:"""

    rule: str = setting("", Text("rules and files joined by commas"), "names of rules, NAME:own, or Python files")
    model: str = setting("pocket", PATH, "the base")
    seeds: int = setting(3, Whole(1, 1000), "repetitions, each with experts of its own")
    first_seed: int = setting(3, Whole(0, 2**31 - 1), "the first seed; of 3 to 5 the most rules have rows")
    out: str = setting("results", Place("a folder"), "folder for experts and rows; what is there is not made again")
    rows: str = setting("results/paper", Place("a folder"), "rows of floors, ceilings and other rules, read alone")
    workers: int = setting(0, Whole(0, 1024), "processes; 0: one a core on a CPU, one on a GPU")
    dry_run: bool = setting(False, Flag(), "print what would be trained and asked, and run nothing")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings, 130 interrupted."""
    going_on = "finished experts and rows are on disk, and the same command goes on from there"
    return with_options("llm.bench", _main, Options, words, going_on, bare=False)


def _main(options: Options) -> int:
    from lora_reuse.llm.bench.measure import Bench, missing, run
    from lora_reuse.llm.bench.text import about, table
    from lora_reuse.llm.protocols.protocol import trained_by

    if not options.rule:
        raise SettingError("rule", "nothing", "rule=NAME or rule=FILE.py", "--help says more")
    if options.first_seed + options.seeds > 2**31:
        raise SettingError("first_seed", f"{options.first_seed} with seeds={options.seeds}", "seeds below 2**31")
    if not Path(options.rows).is_dir():
        if options.rows != Options.rows:
            raise SettingError("rows", options.rows, "a folder with rows")
        print(
            f"no {options.rows} here: floors and ceilings are measured, too, and no other rule is there to compare with"
        )
    words = options.rule.split(",")
    for word in words:
        _refuse(word)
    settings_are_right(options.out)
    rules = [rule for word in words for rule in _read(word)]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    bench = Bench(options.model, seeds, options.out, options.rows, options.workers)
    todo = missing(rules, bench)
    begin(options.out)
    if options.dry_run:
        experts: dict[tuple[Any, Any], Any] = {}
        for protocol, groups in todo:
            experts |= trained_by(protocol, [cell for group in groups for cell in group])
        count = sum(len(group) for _, groups in todo for group in groups)
        print(f"{', '.join(rules)}: {len(experts)} experts (fewer, where they are in {options.out}), {count} rows")
        return 0
    known = run(todo, bench)
    print("\n\n\n".join([*(table(rule, options.model, seeds, known) for rule in rules), about(options.model)]))
    return 0


def _refuse(word: str) -> None:
    """Raises SettingError for a word that is neither a rule nor a file."""
    from lora_reuse.llm.protocols.dials import CONTROLS, GIVEN, TO_LEARN

    given = [name for name in GIVEN if name not in CONTROLS]
    names = [*given, *(f"{name}:own" for name in TO_LEARN)]
    if word in names or (word.endswith(".py") and Path(word).expanduser().is_file()):
        return
    if word.endswith(":two_hop"):
        mend = "it learns the answers that are asked; :own does not"
    else:
        mend = did_you_mean(word, names)
    raise SettingError("rule", repr(word), f"a Python file, or {', '.join(names)}", mend)


def _read(word: str) -> list[str]:
    from lora_reuse.llm.protocols.own_rules import read

    return read(word) if word.endswith(".py") else [word]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
