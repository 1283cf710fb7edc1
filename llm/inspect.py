"""lora-reuse inspect library=folder/a,folder/b model=MODEL

Says what adapters are and what can be done with them. Of one it tells kind, rank and scaling, the modules that it
changes, the base that it names and how large ΔW is; of several, in which modules and ranks they differ and how alike
they are. An adapter that cannot be composed is listed with the reason. Of the model only the shapes are read; where it
is not on this machine, its modules are not checked and ΔW is not measured."""

import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_reuse.llm.decoding.names import each_once
from lora_reuse.llm.protocols.settings import PATH
from lora_reuse.runs.command import begin, settings_are_right, with_options
from lora_reuse.runs.settings import Flag, SettingError, Text, setting, shortened

if TYPE_CHECKING:
    from lora_reuse.llm.adapters.lowrank import Expert


@dataclass(frozen=True)
class Options:
    """What to look at."""

    library: str = setting("", Text("folders, hub names or GGUF files joined by commas"), "the adapters")
    model: str = setting("", PATH, "their model; none: the one that each names")
    trust_remote_code: bool = setting(False, Flag(), "run code that comes with a model")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 all can be composed, 1 one cannot, 2 a mistake in the settings."""
    return with_options("llm.inspect", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    folders = each_once(options.library)
    settings_are_right()
    from lora_reuse.llm.adapters.folders import origin

    begin()
    experts: dict[str, Expert] = {}
    refused, biased = 0, False
    for folder in folders:
        try:
            lines, expert = _looked_at(folder, options)
            biased |= any(line.startswith("biases") for line in lines)
        except SettingError as error:
            lines, expert, refused = [f"refused    {error}"], None, refused + 1
        print("\n".join([shortened(folder), *(f"  {line}" for line in lines), ""]))
        if expert is not None:
            experts[folder] = expert
    if len(experts) > 1:
        named = {folder: options.model or origin(folder).base for folder in experts}
        if strange := _of_another_base(experts, named, options.trust_remote_code):
            print(f"together\n  {strange}: they cannot be composed")
            return 1
        print("\n".join(_together(experts, named, biased)))
    return 1 if refused else 0


def _of_another_base(experts: "Mapping[str, Expert]", bases: Mapping[str, str], trust_remote_code: bool) -> str:
    """The first adapter with a module that the base of the first does not have, or has in another shape."""
    from lora_reuse.llm.adapters.bases import same_base
    from lora_reuse.llm.adapters.folders import weight_shape
    from lora_reuse.llm.decoding.models import load_frame

    first = next(iter(experts))
    others = [name for name in experts if not same_base(bases[name], bases[first])]
    modules = dict(load_frame(bases[first], trust_remote_code).named_modules()) if others else {}
    for name in others:
        for module, update in experts[name].items():
            if module not in modules or weight_shape(modules[module]) != update.shape:
                return (
                    f"{name} changes {module} {update.shape}, which {bases[first]}, the base of {first}, does not have"
                )
    return ""


def _looked_at(folder: str, options: Options) -> "tuple[list[str], Expert | None]":
    """What is said of one adapter, and its updates where the model is on this machine."""
    from lora_reuse.llm.adapters.bases import same_base
    from lora_reuse.llm.adapters.biased import LINEAR
    from lora_reuse.llm.adapters.config import read_config
    from lora_reuse.llm.adapters.folders import folder_of, open_with_biases, origin
    from lora_reuse.llm.adapters.gguf_lora import described, gguf_of
    from lora_reuse.llm.adapters.modules import tied
    from lora_reuse.llm.decoding.models import load_frame

    file = gguf_of(folder)
    config, said = {} if file else read_config(folder_of(folder)), origin(folder)
    kind = described(file) if file else _kind(config)
    name = options.model or said.base
    lines = [f"kind       {kind}", *_whole(config), f"base       {said.base or 'not named'}"]
    if options.model and said.base and not same_base(said.base, options.model):
        lines[-1] += f", not {options.model}: compose wants another_model=true"
    try:
        frame = load_frame(name, options.trust_remote_code)
    except SettingError as error:
        return [*lines, f"modules    not checked ({error})"], None
    expert, biases = open_with_biases(folder, frame)
    sizes = {module: (update.norm(), update.rank) for module, update in expert.items()}  # one in memory at a time
    norms = {module: norm for module, (norm, _) in sizes.items()}
    largest = max(norms, key=lambda module: norms[module])
    lines.append(f"modules    {_modules(expert)}")
    if config and (higher := _higher(config, sorted({rank for _, rank in sizes.values()}))):
        lines.append(f"rank       {higher}")
    if biases:
        middle = statistics.median(bias.norm() for bias in biases.values())
        lines.append(
            f"biases     in {len(biases)} modules, |b| {middle:.3g} in the median: {', '.join(LINEAR)} compose them"
        )
    if nothing := [module for module, norm in norms.items() if norm == 0]:
        lines.append(f"zero       ΔW = 0 in {len(nothing)} of them, such as {nothing[0]}")
    middle = statistics.median(norms.values())
    lines.append(f"size       |ΔW| {middle:.3g} in the median module, {norms[largest]:.3g} in {largest}")
    if warning := tied(frame, expert):
        lines.append(f"beware     {warning}")
    return lines, expert


def _kind(config: Mapping[str, Any]) -> str:
    from lora_reuse.llm.adapters.config import began_as, scaling
    from lora_reuse.llm.adapters.products import KINDS

    kind = config["peft_type"]
    rank = config["init_r" if kind == "ADALORA" else "r"]
    if kind == "VERA":
        return f"VeRA of rank {rank}, ΔW = diag(b) B diag(d) A"
    name, formula = KINDS[kind].title, KINDS[kind].formula
    others = " and others by module" if config["rank_pattern"] or config["alpha_pattern"] else ""
    how = "rank-stabilised " if config.get("use_rslora") else ""
    if began := began_as(config):
        name, formula = f"{name} that began as {began}", "(B A − B₀ A₀)"
    scaled = f"{scaling(config, ''):g} {formula}"  # that of a module without a pattern of its own
    bias = f", and a bias {scaling(config, ''):g} b" if config.get("lora_bias") else ""
    if config.get("use_dora"):
        name, scaled = "DoRA", f"diag(m/‖V‖) V − W of V = W + {scaled}"
    return f"{how}{name} of rank {rank}, alpha {config['lora_alpha']:g}, ΔW = {scaled}{others}{bias}"


def _whole(config: Mapping[str, Any]) -> list[str]:
    """What the adapter stores whole beside its factors."""
    said = [
        (name, config.get(name), how)
        for name, how in (
            ("modules_to_save", "ΔW = W' − W"),
            ("trainable_token_indices", "ΔW has their rows less the base's"),
        )
    ]
    return [f"whole      {name}={', '.join(map(str, value))}: {how}" for name, value, how in said if value]


def _higher(config: Mapping[str, Any], ranks: Sequence[int]) -> str:
    """The ranks of ΔW, from the lowest, where they are not those that the adapter says."""
    if ranks[-1] <= max([config.get("init_r") or 0, config["r"], *config["rank_pattern"].values()]):
        return ""
    said = " to ".join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))
    return f"{said} of ΔW, which is read exactly; max_rank= of compose cuts it, and says by how much it is off"


def _modules(expert: "Expert") -> str:
    """`56: down_proj, up_proj of layers 0 to 27; lm_head`."""
    layers: dict[str, set[int]] = {}
    for module in expert:
        numbers = re.findall(r"\.(\d+)\.", module)
        layers.setdefault(module.rpartition(".")[2], set()).update(int(number) for number in numbers[:1])
    told: dict[str, list[str]] = {}
    for name, of in layers.items():
        told.setdefault(_ranges(sorted(of)), []).append(name)
    said = "; ".join(", ".join(names) + (f" of layers {of}" if of else "") for of, names in told.items())
    return f"{len(expert)}: {said}"


def _ranges(numbers: Sequence[int]) -> str:
    """`0 to 3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _together(experts: "Mapping[str, Expert]", bases: Mapping[str, str], biased: bool) -> list[str]:
    """What is said of several: bases that differ, modules that not all change, ranks that differ, the cosine of their
    ΔW, and what each rule needs."""
    from lora_reuse.llm.adapters.bases import same_base
    from lora_reuse.llm.adapters.biased import LINEAR
    from lora_reuse.llm.adapters.folders import complete
    from lora_reuse.llm.adapters.lowrank import cosine
    from lora_reuse.llm.compositions.add_weighted_adapter import FORMING, how_long

    names, library = list(experts), complete(list(experts.values()))
    lines = ["together"]
    if others := [name for name in names if not same_base(bases[name], bases[names[0]])]:
        lines.append(f"  their bases differ, as those of {names[0]} and {others[0]}: compose wants another_model=true")
    alone = [module for module in library[0] if not all(module in expert for expert in experts.values())]
    if alone:
        said = f"{len(alone)} of {len(library[0])} modules are not changed by all, such as {alone[0]}: ΔW = 0 there"
        lines.append(f"  {said}")
    ranks = [module for module in library[0] if len({e[module].rank for e in library} - {0}) > 1]
    if ranks:
        lines.append(
            f"  their ranks differ in {len(ranks)} modules, such as {ranks[0]}: rules on factors pad them with zeros"
        )
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            alike = cosine(library[i], library[j])
            said = "undefined, because ΔW = 0 in one of them" if math.isnan(alike) else f"{alike:+.3f}"
            lines.append(f"  cosine of ΔW, {one} and {names[j]}: {said}")
    rules = (
        f"of the rules of `lora-reuse compose` {', '.join(LINEAR)}" if biased else "every rule of `lora-reuse compose`"
    )
    told = "" if biased else "; `lora-reuse forecast` says whether one will work"
    lines.append(f"  {rules} can be used{told}")
    if not biased and (long := how_long(sum(math.prod(update.shape) for update in library[0].values()))):
        lines.append(f"  {', '.join(FORMING)} form every ΔW: {long}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
