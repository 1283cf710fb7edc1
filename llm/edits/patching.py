"""What `llm.links` looks at: names read off the residual stream (a logit lens), and hidden states put in the place of
others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from lora_reuse.llm.adapters.modules import decoder_layers
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import Example, examples
from lora_reuse.llm.decoding.greedy import right_padded
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.edits.keys import up_to_answer
from lora_reuse.llm.protocols.composed import make
from lora_reuse.llm.protocols.protocol import Protocol, library_of
from lora_reuse.llm.protocols.settings import Options
from lora_reuse.runs.grid import Cell
from lora_reuse.runs.settings import SettingError

BACK = 6
"""The depths between which states are patched back, at most: 15 pairs."""


class Prompts(NamedTuple):
    """Questions with the beginning of their answers: token ids, the last token of who is asked about, the first tokens
    that the n candidates would go on with, and which of them is right."""

    ids: list[list[int]]
    subject: list[int]
    candidates: list[list[int]]
    right: list[int]

    @property
    def end(self) -> list[int]:
        """The last token of each, where the answer is given."""
        return [len(ids) - 1 for ids in self.ids]


class Patch(NamedTuple):
    """States that take the place of those before block `depth`, of each prompt at one token."""

    depth: int
    at: list[int]
    states: Float32[Tensor, "prompts width"]


class Read(NamedTuple):
    """The logits at the end of each prompt, and the states before each block and after the last, at the tokens that
    were asked for."""

    logits: Float32[Tensor, "prompts vocabulary"]
    states: Mapping[str, Float32[Tensor, "depths prompts width"]]


def ask(base: Base, protocol: Protocol, cells: list[Cell], options: Options) -> list[tuple[Cell, dict[str, Any]]]:
    """What `llm.links` writes in a row."""
    results = []
    for point, seed in cells:
        made = make(base, point, library_of(protocol, point, seed), "", seed, Path(options.out) / "experts")
        with Resident(base.model) as resident, torch.inference_mode():
            resident.use([made.composition])
            measured = links(base, point.dataset, point.triplets, point.split, seed)
        provenance = {"compose_seconds": round(made.seconds, 3), "dials": made.dials}
        results.append(((point, seed), {"measured": measured, "predicted": {}, "stderr": {}, "provenance": provenance}))
    return results


def links(base: Base, dataset: str, count: int, split: str, seed: int) -> dict[str, Any]:
    """The shares of the three links by depth, with whatever is on the base; `hits` of `total` two-hop questions where z
    leads the n places."""
    facts = triplets(dataset, seed)[:count]
    people, places = [t.b for t in facts], [t.c for t in facts]
    first, second, both = (
        prompts(base, examples(dataset + hop, facts, split), names)
        for hop, names in (("1", people), ("2", places), ("12", places))
    )
    bridges = prompts(base, examples(f"{dataset}12", facts, split), places, then=first)
    at = {"x": both.subject, "end": both.end}
    found = read(base, both, at)
    y = read(base, second, {"y": second.subject})
    direct = share(leads(found.logits, both))
    measured: dict[str, Any] = {
        "hits": round(direct * len(both.ids)),
        "total": len(both.ids),
        "direct": direct,
        "first": share(leads(read(base, first, {}).logits, first)),
        "second": share(leads(y.logits, second)),
    }
    for place, states in found.states.items():
        logits = lens(base, states)
        measured[f"y_at_{place}"] = [share(leads(at_depth, bridges)) for at_depth in logits]
        measured[f"z_at_{place}"] = [share(leads(at_depth, both)) for at_depth in logits]
    agrees = torch.allclose(lens(base, found.states["end"][-1:])[0], found.logits, rtol=1e-2, atol=1e-2)
    if not agrees:
        got = f"{type(base.model).__name__}, whose outputs are not its head on its last norm"
        raise SettingError("model", got, "one whose are", "a logit lens would say something else of it")
    other = shifted(len(both.ids), count)
    follows = both._replace(right=[both.right[i] for i in other])
    depths = range(len(found.states["x"]) - 1)
    swapped = {"patched": range(len(other)), "other_patched": other}
    for name, order in swapped.items():
        logits = [
            read(base, both, {}, Patch(depth, both.subject, y.states["y"][depth][list(order)])).logits
            for depth in depths
        ]
        measured[name] = [share(leads(of_depth, both)) for of_depth in logits]
        if name == "other_patched":
            measured["other_follows"] = [share(leads(of_depth, follows)) for of_depth in logits]
    some = sorted({round(i * depths[-1] / (BACK - 1)) for i in range(BACK)})
    measured["back_pairs"] = [[late, early] for late in some for early in some if early < late]
    for place, states in found.states.items():
        for name, order in (("", range(len(other))), ("_other", other)):
            measured[f"back_at_{place}{name}"] = [
                share(leads(read(base, both, {}, Patch(early, at[place], states[late][list(order)])).logits, both))
                for late, early in measured["back_pairs"]
            ]
    return measured


def prompts(base: Base, asked: Sequence[Example], names: Sequence[str], then: Prompts | None = None) -> Prompts:
    """The examples up to where the name of the right one would be said, of `names` by triplet; with `then`, the
    candidates and the right one of other prompts about the same triplets."""
    found = [up_to_answer(base, e.question, e.answer.split(e.gold)[0], names) for e in asked]
    ids = [prompt for prompt, _ in found]
    candidates = [[after[0] for after in going_on] for _, going_on in found]
    subject = [last_token_of(base, prompt, e.subject) for prompt, e in zip(ids, asked, strict=True)]
    right = [e.triplet for e in asked]
    return Prompts(ids, subject, candidates if then is None else then.candidates, right)


def last_token_of(base: Base, ids: list[int], name: str) -> int:
    """The place of the last token of the last mention of a name. Raises SettingError for a prompt without it."""
    count = base.tokenizer.decode(ids).count(name)
    for end in range(1, len(ids) + 1):
        if count and base.tokenizer.decode(ids[:end]).count(name) == count:
            return end - 1
    raise SettingError("dataset", f"a prompt without {name}", "prompts that name who they ask about")


def shifted(questions: int, count: int) -> list[int]:
    """For each question another triplet's in the same template: the next one's."""
    return [i - i % count + (i % count + 1) % count for i in range(questions)]


def leads(logits: Float[Tensor, "prompts vocabulary"], asked: Prompts) -> list[float]:
    """Of each prompt, 1 where the right candidate's first token has the largest logit among those of all, shared among
    candidates that begin alike; else 0."""
    found = []
    for row, tokens, right in zip(logits, asked.candidates, asked.right, strict=True):
        best = max(row[token].item() for token in set(tokens))
        found.append(float(row[tokens[right]].item() == best) / tokens.count(tokens[right]))
    return found


def share(each: Sequence[float]) -> float:
    """The mean, to six digits."""
    return round(sum(each) / len(each), 6)


def lens(base: Base, states: Float32[Tensor, "depths prompts width"]) -> Float32[Tensor, "depths prompts vocabulary"]:
    """What the last norm and the head make of hidden states. Raises SettingError for a model with something else
    between its last block and its head."""
    inner: Any = base.model.get_decoder()
    norms = [module for module in inner.children() if "norm" in type(module).__name__.lower()]
    head: Any = base.model.get_output_embeddings()
    if not norms or head.weight.shape[1] != states.shape[-1]:
        raise SettingError(
            "model", type(base.model).__name__, "a model with a norm alone between its blocks and its head"
        )
    return head(norms[-1](states.to(norms[-1].weight.device, base.model.dtype))).float().cpu()


def read(base: Base, asked: Prompts, at: Mapping[str, list[int]], patch: Patch | None = None) -> Read:
    """The prompts read in one batch, with the states at some tokens, and with a patch."""
    _, layers = decoder_layers(base.model)
    rows = torch.arange(len(asked.ids))
    kept: dict[str, list[Tensor]] = {name: [] for name in at}

    def look(depth: int, x: Tensor) -> None:
        if patch and depth == patch.depth:
            x[rows, torch.tensor(patch.at)] = patch.states.to(x.device, x.dtype)
        for name, tokens in at.items():
            kept[name].append(x[rows, torch.tensor(tokens)].float().cpu())

    def before(depth: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            look(depth, args[0] if args else kwargs["hidden_states"])

        return hook

    def after(_: nn.Module, args: Any, output: Any) -> None:
        look(len(layers), output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_pre_hook(before(i), with_kwargs=True) for i, layer in enumerate(layers)]
    hooks.append(layers[-1].register_forward_hook(after))
    try:
        ids, attended = right_padded(asked.ids, base)
        logits = base.model(input_ids=ids, attention_mask=attended, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return Read(logits[rows, torch.tensor(asked.end)].float().cpu(), {name: torch.stack(x) for name, x in kept.items()})
