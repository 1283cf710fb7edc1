"""lora-reuse compose library=folder/a,folder/b composition=ties density=0.3 out=merged

Writes a composition of adapters to disk. A static one becomes a PEFT folder that anyone loads with PEFT alone; one with
a router (arrow, arrow_after) a folder that two lines of ours load (llm/adapters/saving.py). Of the model only the
shapes are read, so a laptop composes adapters of a large model. A dial that is not named has the value of the model's
preset, or else the rule's default; the folder says which."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.protocols.dials import EVERY, GIVEN, TO_LEARN, WORDS, Dials, made_with
from lora_reuse.llm.protocols.settings import PATH, preset_dials
from lora_reuse.runs.command import command, without_help
from lora_reuse.runs.settings import Flag, NoAxes, SettingError, Text, did_you_mean, help_table, parse, setting


@dataclass(frozen=True)
class Options:
    """What to compose, how, and where to."""

    RENAMED: ClassVar = {
        "base": "model",
        "method": "composition",
        "another_base": "another_model",
        "rank": "merged_rank",
    }

    model: str = setting("", PATH, "the model of the adapters; none: the one the first names")
    library: str = setting("", Text("folders or hub names joined by commas"), "the adapters, plain PEFT LoRAs")
    composition: str = setting("", Text(" | ".join(WORDS)), "the rule")
    out: str = setting("", Text("a folder"), "a new or empty folder")
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
    print(_compose(options, options.library.split(","), dials))
    return 0


def _compose(options: Options, folders: list[str], given: dict[str, Any]) -> str:
    from lora_reuse.llm.adapters.folders import digest, load_expert, origin
    from lora_reuse.llm.adapters.lowrank import LowRank
    from lora_reuse.llm.adapters.saving import Card, save_composition
    from lora_reuse.llm.compositions import compose
    from lora_reuse.llm.decoding.models import load_frame
    from lora_reuse.runs.provenance import provenance

    _check_rule(options.composition)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("out", out, "a new or empty folder", "nothing is overwritten")
    if "" in folders or len(set(folders)) < len(folders):
        raise SettingError("library", options.library, "each adapter once")
    named = options.model or origin(folders[0]).base
    if not named:
        raise SettingError("model", "nothing", "model=...", f"{folders[0]} does not name the model it was trained on")
    frame = load_frame(named, options.trust_remote_code)
    if not options.another_model:
        for name in folders:
            _check_model(name, named)
    dials = made_with([options.composition], given, preset_dials(named))[options.composition]
    if dials.get("top_k", 0) > len(folders):
        raise SettingError("top_k", dials["top_k"], f"at most {len(folders)}, the adapters")
    rule, _, _ = options.composition.partition(":")
    composition = compose(rule, [load_expert(name, frame) for name in folders], **dials)
    source = provenance("torch", "peft", "safetensors")
    made = f"`{source['command']}` with " + ", ".join(
        f"{name} {version}" for name, version in source["versions"].items()
    )
    card = Card(
        named,
        options.composition,
        GIVEN[rule].doc,
        {name: digest(name) for name in folders},
        dials,
        made,
    )
    try:
        save_composition(composition, frame, out, card)
    except OSError as error:
        raise SettingError(
            "out", f"{out} ({error.strerror or error})", "a folder that can be written, on a disk with room"
        ) from None
    ranks = sorted({delta.rank for delta in composition.values() if isinstance(delta, LowRank)})
    kind = (
        f"a PEFT adapter of rank {'-'.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}"
        if ranks
        else "a routed composition"
    )
    return (
        f"{options.composition} of {len(folders)} adapters, {len(composition)} modules: {kind} in {out}; its "
        "README.md says how to load it"
    )


def _check_rule(name: str) -> None:
    """Raises SettingError for a rule that is none, or that learns from data, of which this command has none."""
    if name in WORDS:
        return
    allowed = " | ".join(WORDS)
    if name.partition(":")[0] in TO_LEARN:
        mend = "the protocols learn it (NAME:SOURCE), and llm.adapters.saving.save_composition saves what they learn"
        raise SettingError("composition", f"{name}, which learns from data", allowed, mend)
    raise SettingError("composition", repr(name), allowed, did_you_mean(name, [*WORDS, *TO_LEARN]))


def _check_model(adapter: str, model: str) -> None:
    """Raises SettingError when the adapter says that it was trained on another model: by its digest, or else by the
    last part of its path or name."""
    from lora_reuse.llm.adapters.folders import origin
    from lora_reuse.llm.decoding.models import digest_of
    from lora_reuse.llm.decoding.names import place_of

    said = origin(adapter)
    mend = "another_model=true composes it all the same"
    allowed = "the model of every adapter"
    if said.digest:
        if said.digest != digest_of(model):
            got = f"{model}, other weights than {adapter} was trained on ({said.base})"
            raise SettingError("model", got, allowed, mend)
    elif said.base and place_of(said.base).name.lower() != place_of(model).name.lower():
        raise SettingError("model", f"{model}, and {adapter} names {said.base}", allowed, mend)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
