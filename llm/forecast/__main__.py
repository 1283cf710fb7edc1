"""lora-reuse forecast model=Qwen/Qwen2.5-3B-Instruct library=folder/a,folder/b prompts=prompts.jsonl

What should one do with two adapters or more? The file `prompts` holds one JSON object a line, such as {"set": "a",
"prompt": ...}. Set "a" has prompts that the first adapter was made for, "b" those of the second, "c" those of a third,
and "hoped" those that one hopes all together can answer. A handful of each is enough, without answers: the validation
has six, and the printed intervals say what fewer are worth. A line {"set": "a", "facts": "counterfact.json", "count":
6} stands for the prompts of six facts of a file, which is in CounterFact's form or a phone book
(llm/data/fact_files.py says how).

The command prints a decision (merge with one of the rules of composition=, route, train a bridge, or do not), the
probability that it works and what it leaves of the adapters' own answers; then, for each composition, whose answer the
hoped-for prompts will get. With out= it also writes the numbers and a plot.

With validate=results/paper the command instead forecasts every row there of two composed experts on facts, or of any
number on skills, and prints how well the forecasts rank what these rows measured and what the decisions cost. It keeps
a row for each forecast in out=, and trains there the experts that are missing."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.data.fact_files import facts
from lora_reuse.llm.forecast import HOPED, MOST, letters
from lora_reuse.llm.protocols.dials import COMPOSITIONS, EVERY, WORDS, Dials, made_with
from lora_reuse.llm.protocols.settings import Device, Model, preset_dials
from lora_reuse.runs.command import begin, command, settings_are_right, without_help
from lora_reuse.runs.files import write
from lora_reuse.runs.settings import (
    Choice,
    Flag,
    Place,
    SettingError,
    Text,
    Whole,
    did_you_mean,
    help_table,
    parse,
    setting,
)


@dataclass(frozen=True)
class Lists:
    """Lists, with commas between:"""

    library: str = setting("", Text("a PEFT folder or a hub name"), "the adapters, a, b, ..., trained on model=")
    composition: str = setting("uniform", Choice("base", *WORDS), "how they are composed", grid=COMPOSITIONS)


@dataclass(frozen=True)
class Options(Device, Model):
    """What is asked, and how:"""

    RENAMED: ClassVar = {"base": "model", "adapters": "library", "normalise": "scores"}

    prompts: str = setting("", Text("a JSONL file"), "the prompts")
    out: str = setting(
        "", Place("a folder"), "where forecast.json, forecast.png and forecast.pdf go; with validate=, rows, experts"
    )
    answer_tokens: int = setting(96, Whole(1, 10**5), "longest answer")
    another_model: bool = setting(False, Flag(), "forecast although an adapter names another model than model=")
    validate: str = setting("", Place("a folder with rows"), "measure how good forecasts are, on the rows there")
    protocol: str = setting("", Place("a Python file"), "validate: a protocol of one's own, whose rows are there, too")
    asked: int = setting(6, Whole(1, 100), "validate: hoped-for prompts, and own prompts of each adapter, a forecast")


@dataclass(frozen=True)
class _All(Options, Dials):
    """Both, for the parser."""


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or a file, 130 interrupted."""
    return command(
        "llm.forecast",
        _main,
        words,
        "with validate=, finished experts and rows are on disk, and the same command goes on from there",
    )


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    lists, given = parse(words, Lists, _All)
    dials = {name: given.pop(name) for name in EVERY if name in given}
    options = Options(**given)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Lists, Options, Dials))
        return 0
    if options.validate:
        settings_are_right(options.out)
        if not Path(options.validate).is_dir():
            raise SettingError("validate", options.validate, "a folder with rows")
        begin(options.out)
        from lora_reuse.llm.forecast.validate import validate

        print(validate(Path(options.validate), Path(options.out or "results"), options))
        return 0
    library = lists.get("library", ())
    if not 2 <= len(library) <= MOST or len({Path(name).expanduser().resolve() for name in library}) < len(library):
        allowed = f"two adapters, library=a,b, or more, {MOST} at most and each once"
        raise SettingError("library", ",".join(library) or "nothing", allowed)
    if not options.prompts:
        raise SettingError("prompts", "nothing", "prompts=FILE, as --help says")
    how = lists.get("composition", COMPOSITIONS)
    made = made_with(how, dials, preset_dials(options.model))
    settings_are_right(options.out)
    prompts = read_prompts(Path(options.prompts).expanduser(), len(library))
    from lora_reuse.llm.adapters.folders import origin

    for adapter in library:
        origin(adapter)
    begin(options.out)
    _forecast(library, made, prompts, options)
    return 0


def _forecast(
    adapters: Sequence[str], dials: dict[str, dict[str, Any]], prompts: dict[str, list[str]], options: Options
) -> None:
    from transformers.utils import logging

    from lora_reuse.llm.adapters.adapter import load_adapter
    from lora_reuse.llm.compositions import compose
    from lora_reuse.llm.decoding.models import load_base
    from lora_reuse.llm.forecast.forecasts import forecasts

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    base = load_base(
        options.model, options.dtype, options.device, options.device_map, options.chat, options.trust_remote_code
    )
    library = [dict(load_adapter(base, adapter, options.another_model).experts()) for adapter in adapters]
    rules = {how: how.partition(":")[0] for how in dials}
    made = {how: None if how == "base" else compose(rules[how], library, **dials[how]) for how in dials}
    began = time.perf_counter()
    known = {how: None if how == "base" else (rules[how], dials[how]) for how in dials} if len(library) > 2 else {}
    found = forecasts(base, library, adapters, made, prompts, options.answer_tokens, known)
    print(found)
    print(f"\n{sum(map(len, prompts.values()))} prompts, {time.perf_counter() - began:.1f} s")
    if options.out:
        from lora_reuse.llm.forecast.plot import plot

        out = Path(options.out).expanduser()
        shown = max(found.each, key=lambda how: found.each[how].score)
        said = found.numbers() | {
            "library": list(adapters),
            "model": options.model,
            "dials": dials,
        }
        try:
            write(out / "forecast.json", json.dumps(said, indent=1) + "\n")
            written = plot(found.measured, found.each, shown, out)
        except OSError as error:
            raise SettingError("out", f"{out} ({error.strerror})", "a folder that can be written") from None
        print(f"{out / 'forecast.json'}, {', '.join(map(str, written))}")


def read_prompts(path: Path, adapters: int = 2) -> dict[str, list[str]]:
    """The prompts by set. Raises SettingError with the line of the first that is none, and for a set without
    prompts."""
    called = letters(adapters)
    found: dict[str, list[str]] = {name: [] for name in (*called, HOPED)}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("prompts", f"{path} ({type(error).__name__})", "a JSONL file") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = _record(path, number, line, tuple(found))
            found[record["set"]] += _prompts(record, f"{path}:{number}")
    if missing := [name for name, some in found.items() if not some]:
        allowed = f"prompts for {', '.join(called)}, and hoped"
        raise SettingError("prompts", f"{path} without any of set {missing[0]!r}", allowed)
    return found


def _record(path: Path, number: int, line: str, sets: Sequence[str]) -> dict[str, Any]:
    """The line as an object with a set."""
    where = f"{path}:{number}"
    try:
        record: Any = json.loads(line)
    except ValueError:
        _refuse_facts(path)
        raise SettingError(where, repr(line[:40]), "one JSON object a line") from None
    if not isinstance(record, dict) or "set" not in record:
        if not isinstance(record, dict) or "prompt" not in record:
            _refuse_facts(path)
        raise SettingError(where, repr(line[:40]), '{"set": "a", "prompt": "..."}')
    if record["set"] not in sets:
        mend = did_you_mean(record["set"], sets)
        raise SettingError(where, f"set {record['set']!r}", " | ".join(sets), mend)
    return record


def _prompts(record: dict[str, Any], where: str) -> list[str]:
    """The prompt of a record, or those of as many facts of a file as it says."""
    keys = ("set", "facts", "count") if "facts" in record else ("set", "prompt")
    if extra := sorted(record.keys() - set(keys)):
        mend = "a forecast needs no answers and reads none"
        raise SettingError(where, f"the key {extra[0]!r}", ", ".join(keys), mend)
    text, count = record.get(keys[1]), record.get("count", 6)
    if not isinstance(text, str) or not text.strip():
        raise SettingError(where, f"{keys[1]} {text!r:.40}", '{"set": "a", "prompt": "..."}')
    if keys[1] == "prompt":
        return [text]
    if type(count) is not int or count < 1:
        raise SettingError(where, f"count {count!r:.40}", "a whole number from 1")
    try:
        there = facts(text, 0)
    except SettingError as error:
        raise error.at(where) from None
    if len(there) < count:
        raise SettingError(where, f"count {count}", f"at most the {len(there)} facts of {text}")
    return [fact.prompt for fact in there[:count]]


def _refuse_facts(path: Path) -> None:
    """Raises SettingError for a file that has facts in place of prompts."""
    try:
        facts(str(path), 0)
    except SettingError:
        return
    got = f"{path}, facts that do not say whose they are, and no prompts that one hopes all adapters can answer"
    mend = 'a JSONL file can name this one: {"set": "a", "facts": "counterfact.json", "count": 6}'
    raise SettingError("prompts", got, "prompts for a, for b, and hoped", mend)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
