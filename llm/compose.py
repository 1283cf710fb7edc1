"""python -m llm.compose library=folder/a,folder/b method=ties density=0.3 out=merged

Writes a composition of adapters. A static one becomes a PEFT folder that anyone loads with PEFT alone; one with a
router (arrow, arrow_after) a folder that two lines of ours load (llm/saving.py). Of the base only the shapes are read,
so a laptop composes adapters of a large model."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.protocols.settings import PATH
from lora_reuse.runs.command import command, without_help
from lora_reuse.runs.settings import (
    Choice,
    Flag,
    NoAxes,
    Number,
    SettingError,
    Text,
    Whole,
    did_you_mean,
    help_table,
    parse,
    setting,
)


class Numbers:
    """Numbers joined by commas."""

    allowed = "numbers joined by commas"

    def parse(self, text: str) -> tuple[float, ...]:
        values = tuple(float(word) for word in text.split(","))
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values


@dataclass(frozen=True)
class Options:
    """What to compose, how, and where to."""

    base: str = setting("", PATH, "the model of the adapters; none: the one the first names")
    library: str = setting("", Text("folders or hub names joined by commas"), "the adapters, plain PEFT LoRAs")
    method: str = setting(
        "",
        Text("uniform, average, sum, linear, cat, ties, dare, knots, lego, arrow, arrow_after, ..."),
        "how they are composed",
    )
    out: str = setting("", Text("a folder"), "a new or empty folder")
    another_base: bool = setting(False, Flag(), "compose although an adapter names another base than base=")
    trust_remote_code: bool = setting(False, Flag(), "run code that comes with a model")


@dataclass(frozen=True)
class Knobs:
    """Of the rule; a knob that it does not look at is refused."""

    weights: tuple[float, ...] = setting((), Numbers(), "linear, cat: one an adapter; none: 1 each")
    density: float = setting(0.2, Number(0, 1), "ties, dare, knots: share of the weights that is kept")
    trim: str = setting("global", Choice("global", "module"), "ties: what the share is taken of")
    then: str = setting("sum", Choice("sum", "linear", "ties"), "dare: what follows the dropping")
    rank: int = setting(0, Whole(0, 10**5), "lego: rank of the result; 0: that of the adapters")
    temperature: float = setting(1.0, Number(1e-6, 1e6), "arrow: logits are divided by it")
    top_k: int = setting(0, Whole(0, 1000), "arrow: experts a token goes to; 0: all")
    scores: str = setting("raw", Choice("raw", "cosine"), "arrow: logits from activations as they are, or normalised")
    prototypes: str = setting("own", Choice("own", "swapped", "random"), "arrow: controls")
    seed: int = setting(0, Whole(0), "dare, lego, random")


@dataclass(frozen=True)
class _All(Knobs, Options):
    """Both, for the parser."""


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or an adapter that does not fit."""
    return command("llm.compose", _main, words)


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    _, given = parse(words, NoAxes, _All)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options, Knobs))
        return 0
    knobs = {f.name: given.pop(f.name) for f in dataclasses.fields(Knobs) if f.name in given}
    options = Options(**given)
    for name in ("library", "method", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    print(_compose(options, options.library.split(","), knobs))
    return 0


def _compose(options: Options, folders: list[str], knobs: dict[str, Any]) -> str:
    from lora_reuse.llm.adapters.folders import digest, load_expert, origin
    from lora_reuse.llm.adapters.lowrank import LowRank
    from lora_reuse.llm.adapters.saving import Card, save_composition
    from lora_reuse.llm.compositions import RULES
    from lora_reuse.llm.decoding.models import load_frame
    from lora_reuse.runs.provenance import provenance

    _check_method(options.method)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("out", out, "a new or empty folder", "nothing is overwritten")
    if "" in folders or len(set(folders)) < len(folders):
        raise SettingError("library", options.library, "each adapter once")
    named = options.base or origin(folders[0]).base
    if not named:
        raise SettingError("base", "nothing", "base=...", f"{folders[0]} does not name the model it was trained on")
    frame = load_frame(named, options.trust_remote_code)
    if not options.another_base:
        for name in folders:
            _check_base(name, named)
    composition, used = _composed(options.method, [load_expert(name, frame) for name in folders], knobs)
    source = provenance("torch", "peft", "safetensors")
    made = f"`{source['command']}` with " + ", ".join(
        f"{name} {version}" for name, version in source["versions"].items()
    )
    card = Card(
        named,
        options.method,
        RULES[options.method].rule.__doc__ or "",
        {name: digest(name) for name in folders},
        used,
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
    return f"{options.method} of {len(folders)} adapters, {len(composition)} modules: {kind} in {out}; its README.md says how to load it"


def _check_method(method: str) -> None:
    """Raises SettingError for a method that is none, or that learns from data, of which this command has none."""
    from lora_reuse.llm.compositions import RULES
    from lora_reuse.llm.learned import LEARNED

    if method in RULES:
        return
    allowed = " | ".join(RULES)
    if method in LEARNED:
        mend = "the protocols learn it (composition=NAME:SOURCE), and llm.adapters.saving.save_composition saves what they learn"
        raise SettingError("method", f"{method}, which learns from data", allowed, mend)
    raise SettingError("method", repr(method), allowed, did_you_mean(method, [*RULES, *LEARNED]))


def _check_base(adapter: str, base: str) -> None:
    """Raises SettingError when the adapter says that it was trained on another base: by its digest, or else by the last
    part of its path or name."""
    from lora_reuse.llm.adapters.folders import origin
    from lora_reuse.llm.decoding.models import digest_of
    from lora_reuse.llm.decoding.names import place_of

    said = origin(adapter)
    mend = "another_base=true composes it all the same"
    if said.digest:
        if said.digest != digest_of(base):
            raise SettingError(
                "base",
                f"{base}, other weights than {adapter} was trained on ({said.base})",
                "the base of every adapter",
                mend,
            )
    elif said.base and place_of(said.base).name.lower() != place_of(base).name.lower():
        raise SettingError("base", f"{base}, and {adapter} names {said.base}", "the base of every adapter", mend)


def _composed(method: str, library: list[Any], knobs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The composition, and the knobs that the rule looked at with their values. Raises SettingError for a given knob
    that it did not."""
    from lora_reuse.llm.compositions import Options as RuleOptions
    from lora_reuse.llm.compositions import compose

    seen: set[str] = set()

    class Watched(RuleOptions):
        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    if knobs.get("top_k", 0) > len(library):
        raise SettingError("top_k", knobs["top_k"], f"at most {len(library)}, the adapters")
    options = Watched(**knobs)
    seen.clear()
    composition = compose(method, library, options)
    names = {f.name for f in dataclasses.fields(RuleOptions)} & seen
    if idle := [name for name in knobs if name not in names]:
        raise SettingError(
            idle[0],
            knobs[idle[0]],
            ", ".join(sorted(names)) or f"no knob with method={method}",
            f"{method} does not look at it",
        )
    return composition, {name: getattr(options, name) for name in sorted(names)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
