"""lora-reuse compose library=folder/a,folder/b composition=ties density=0.3 out=merged

Writes a composition of adapters to disk. A static one becomes a PEFT folder that anyone loads with PEFT alone; one with
a router (arrow, arrow_after) a folder that two lines of ours load (lora_reuse.load). Of the model only the shapes are
read, and of the adapters one module at a time, so a laptop composes adapters of a large model. max_rank= cuts the
result to a rank that a server loads, and says by how much it is off. A dial that is not named has the value of the
model's preset, or else the rule's default; the folder says which.

format=model writes a whole model instead: the base's own files, with ΔW added to the weights a few rows at a time, each
in the dtype that the base stores it in. What rounding to that dtype leaves out of ΔW is said. format=gguf writes an
adapter that llama.cpp loads. library= may name such files, too."""

import functools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.decoding.names import each_once
from lora_reuse.llm.protocols.dials import EVERY, GIVEN, WORDS, Dials, check_rule, made_with
from lora_reuse.llm.protocols.settings import PATH
from lora_reuse.runs.command import begin, command, refuse_full, settings_are_right, without_help
from lora_reuse.runs.provenance import program
from lora_reuse.runs.settings import Choice, Flag, NoAxes, Place, SettingError, Text, Whole, help_table, parse, setting

FORMATS = {"adapter": ("peft", ""), "model": ("transformers",), "gguf": ("gguf",)}
"""What can be written, and the libraries that load it; a routed composition none but this one."""


@dataclass(frozen=True)
class Options:
    """What to compose, how, and where to."""

    RENAMED: ClassVar = {
        "base": "model",
        "base_model": "model",
        "adapters": "library",
        "models": "library",
        "method": "composition",
        "merge_method": "composition",
        "another_base": "another_model",
        "rank": "merged_rank",
        "max_lora_rank": "max_rank",
    }

    model: str = setting("", PATH, "the model of the adapters; none: the one the first names")
    library: str = setting("", Text("folders, hub names or GGUF files joined by commas"), "the adapters")
    composition: str = setting("", Text(" | ".join(WORDS)), "the rule")
    out: str = setting("", Place("a folder"), "a new or empty folder")
    format: str = setting(
        "adapter",
        Choice(*FORMATS),
        "what is written: an adapter for PEFT, a model with the adapter in its weights, or an adapter for llama.cpp",
    )
    max_rank: int = setting(
        0, Whole(0, 10**5), "cut ΔW of every module to its nearest one of this rank, as vLLM's max_lora_rank; 0: not"
    )
    another_model: bool = setting(False, Flag(), "compose although an adapter names another model than model=")
    trust_remote_code: bool = setting(False, Flag(), "run code that comes with a model")


@dataclass(frozen=True)
class _All(Dials, Options):
    """Both, for the parser."""


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or an adapter that does not fit."""
    return command("llm.compose", _main, words)


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    _, given = parse(words, NoAxes, _All)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options, Dials))
        return 0
    dials = {name: given.pop(name) for name in EVERY if name in given}
    options = Options(**given)
    for name in ("library", "composition", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    check_rule(options.composition)
    if not GIVEN[options.composition.partition(":")[0]].promises["static"]:
        if options.max_rank:
            raise SettingError("max_rank", options.max_rank, "a rule that gives one ΔW", "no max_rank= for a router")
        if options.format != "adapter":
            raise SettingError("format", options.format, "a rule that gives one ΔW", "format=adapter for a router")
    made_with([options.composition], dials, {})
    folders = each_once(options.library)
    settings_are_right(options.out)
    print(_compose(options, folders, dials))
    return 0


def _compose(options: Options, folders: list[str], given: dict[str, Any]) -> str:
    from lora_reuse.llm.adapters.adapter import read_adapter
    from lora_reuse.llm.adapters.composing import card_of, composed
    from lora_reuse.llm.adapters.compressing import card_at, compressed
    from lora_reuse.llm.adapters.folders import entries, origin
    from lora_reuse.llm.adapters.gguf_writing import save_gguf
    from lora_reuse.llm.adapters.merging import card_of_whole, save_whole
    from lora_reuse.llm.adapters.modules import tied
    from lora_reuse.llm.adapters.saving import made_before, save
    from lora_reuse.llm.adapters.writing import saved_ranks
    from lora_reuse.llm.compositions.add_weighted_adapter import FORMING, how_long
    from lora_reuse.llm.decoding.models import digest_of, load_frame

    named = options.model or origin(folders[0]).base
    if not named:
        raise SettingError("model", "nothing", "model=...", f"{folders[0]} does not name the model it was trained on")
    frame, digest = load_frame(named, options.trust_remote_code), functools.cache(lambda: digest_of(named))
    library = [read_adapter(folder, frame, named, digest, options.another_model) for folder in folders]
    made = options.composition, given, shlex.join([*program(), *sys.argv[1:]])
    out = Path(options.out).expanduser()
    card = card_of(library, *made)
    for name, cut in (("max_rank", options.max_rank), ("format", options.format != "adapter")):
        if cut and any(adapter.biases for adapter in library):
            got = f"{getattr(options, name)} with adapters that have biases (lora_bias)"
            raise SettingError(name, got, "adapters of ΔW alone", f"without {name}= the biases are composed, too")
    if options.max_rank:
        card = card_at(card, options.max_rank)
    if options.format == "model":
        card = card_of_whole(card, named, digest())
    there = made_before(out, card, *FORMATS[options.format])
    if not there:
        refuse_full(out)
    begin(options.out)
    if there:
        return f"{out} has {options.composition} of these adapters with these dials already"
    if options.composition in FORMING and (long := how_long(entries(frame, set().union(*library)))):
        print(f"{options.composition} forms every ΔW: {long}", flush=True)
    both, loss = composed(library, *made), None
    if options.max_rank:
        both, loss = compressed(both, options.max_rank)
    try:
        if options.format == "model":
            kind, notes = "a whole model", save_whole(both, named, digest(), frame, out)
        elif options.format == "gguf":
            save_gguf(both, out, frame.config)
            kind, notes = "a GGUF adapter", []
        else:
            save(both, out)
            kind = f"a PEFT adapter of rank {saved_ranks(out)}" if both.static else "a routed composition"
            notes = [note for note in [tied(frame, both)] if note]
    except OSError as error:
        raise SettingError(
            "out", f"{out} ({error.strerror or error})", "a folder that can be written, on a disk with room"
        ) from None
    said = (
        f"{options.composition} of {len(folders)} adapter{'s' * (len(folders) != 1)}, {len(both)} "
        f"module{'s' * (len(both) != 1)}: {kind} in {out}; its README.md says how to load it"
    )
    return "\n".join([said, *([loss.line()] if loss else []), *notes])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
