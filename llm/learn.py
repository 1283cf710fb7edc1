"""lora-reuse learn model=MODEL library=a,b composition=cat examples=own.jsonl out=merged

Composes adapters by a rule that learns how much of each to take. The examples, one JSON object {"prompt", "answer"} a
line, are a small part of what each adapter was trained on. The adapters and the base stay as they are. cat,
cat_softmax, lorahub and lorahub_cat become a PEFT folder that anyone loads with PEFT alone; moe becomes a router, a
folder that two lines of ours load (lora_reuse.load). The folder's README.md says what was learned. Interrupted, the
same command goes on."""

import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.data.pairs import pairs_in
from lora_reuse.llm.decoding.names import each_once
from lora_reuse.llm.protocols.dials import TO_LEARN, Learning
from lora_reuse.llm.protocols.settings import Device, Model
from lora_reuse.runs.command import begin, command, refuse_full, settings_are_right, without_help
from lora_reuse.runs.dials import axes, every
from lora_reuse.runs.provenance import program
from lora_reuse.runs.settings import Choice, Flag, NoAxes, Place, SettingError, Text, Whole, help_table, parse, setting

OWN = every(TO_LEARN)
RuleDials = axes("RuleDials", "Of the rule; a dial that it does not have is refused.", OWN)


@dataclass(frozen=True)
class Options(Device, Model):
    """What to compose, from what, and where to."""

    RENAMED: ClassVar = {"base": "model", "adapters": "library", "data": "examples", "steps": "learn_steps"}

    library: str = setting("", Text("folders, hub names or GGUF files joined by commas"), "the adapters")
    composition: str = setting("cat", Choice(*TO_LEARN), "the rule")
    examples: str = setting("", Text("a JSONL file"), "what the rule learns from")
    out: str = setting("", Place("a folder"), "a new or empty folder")
    batch: int = setting(16, Whole(1, 10**5), "examples a batch")
    seed: int = setting(0, Whole(0, 10**9), "draws the batches, and LoraHub's points")
    another_model: bool = setting(False, Flag(), "compose although an adapter names another model than model=")


@dataclass(frozen=True)
class _All(RuleDials, Learning, Options):
    """All of them, for the parser."""


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings, a file or an adapter that does not
    fit, 130 interrupted."""
    return command("llm.learn", _main, words, "the same command goes on from the last checkpoint")


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    _, given = parse(words, NoAxes, _All)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options, Learning, RuleDials))
        return 0
    knobs = {f: given.pop(f) for f in (*OWN, *Learning.__dataclass_fields__) if f in given}
    options = Options(**given)
    for name in ("library", "examples", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    folders = each_once(options.library)
    settings_are_right(options.out)
    examples = pairs_in(Path(options.examples).expanduser(), "examples")
    print(_learn(options, folders, examples, knobs))
    return 0


def _learn(options: Options, folders: list[str], examples: Sequence[tuple[str, str]], knobs: dict[str, Any]) -> str:
    from transformers.utils import logging

    from lora_reuse.llm.adapters.adapter import load_adapter
    from lora_reuse.llm.adapters.learning import learned, learned_card, settled
    from lora_reuse.llm.adapters.saving import made_before, save
    from lora_reuse.llm.adapters.writing import saved_ranks
    from lora_reuse.llm.decoding.models import load_base

    rule, out = options.composition, Path(options.out).absolute()
    dials = settled(rule, knobs) | {"batch": options.batch, "seed": options.seed}
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    base = load_base(
        options.model, options.dtype, options.device, options.device_map, options.chat, options.trust_remote_code
    )
    library = [load_adapter(base, folder, options.another_model) for folder in folders]
    made_by = shlex.join([*program(), *sys.argv[1:]])
    card = learned_card(library, rule, examples, made_by, dials)
    there = made_before(out, card, "peft", "")
    if not there:
        refuse_full(out)
    begin(options.out)
    if there:
        return f"{out} has {rule} of these adapters, learned from these examples, already"
    key = hashlib.sha256(repr((base.digest, options, dict(card.experts), dict(card.dials))).encode()).hexdigest()[:16]
    kept = out.with_name(f"{out.name}.{key}.learning")
    try:
        both = learned(base, library, rule, examples, card, None, kept)
        save(both, out)
        kept.unlink(missing_ok=True)
    except OSError as error:
        got = f"{out} ({error.strerror or error})"
        raise SettingError("out", got, "a folder that can be written, on a disk with room") from None
    kind = f"a PEFT adapter of rank {saved_ranks(out)}" if both.static else "a routed composition"
    return (
        f"{rule} of {len(library)} adapters, learned from {len(examples)} examples: {kind} in {out}{both.card.note()}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
