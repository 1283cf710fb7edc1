"""What a pocket model can do before any adapter, measured on its own facts, and the card that says so."""

import dataclasses
import json
import random
from pathlib import Path

import torch

from lora_reuse.llm.data.names import cities, people
from lora_reuse.llm.data.subsets import step_by_step
from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.pocket.corpus import JOBS, OTHER_PAIRS, RELATIONS, TESTED_PAIR, World, ask, ask_two
from lora_reuse.llm.pocket.pretrain import Made
from lora_reuse.llm.pocket.size import Corpus, Size
from lora_reuse.llm.pocket.styles import OWN_STYLES
from lora_reuse.llm.scoring.intervals import wilson
from lora_reuse.llm.scoring.two_hop import direct, last_sentence

QUESTIONS = 200
"""Questions an ability is measured with."""


def write_card(folder: Path, size: Size, made: Made, questions: int = QUESTIONS) -> str:
    """Measures the model in `folder` and writes pocket.json (for programs) and README.md (for people); returns what it
    can do."""
    abilities = measure(folder, size, questions)
    (folder / "pocket.json").write_text(
        json.dumps({"made": made, "size": size.recorded, "abilities": abilities}, indent=1) + "\n"
    )
    lines = []
    for name, (hits, total) in abilities.items():
        low, high = wilson(hits, total)
        lines.append(f"| {name} | {hits}/{total} | {100 * hits / total:.0f} % [{100 * low:.0f}, {100 * high:.0f}] |")
    named = {f.name: f.default for f in dataclasses.fields(size)}
    words = " ".join(
        f"{name}={value}".lower() for name, value in dataclasses.asdict(size).items() if value != named[name]
    )
    where = f"threads={torch.get_num_threads()}" if made["device"] == "cpu" else f"device={made['device']}"
    made_with = f"{words} {where}".strip()
    dials = {f.name for f in dataclasses.fields(Corpus)}
    corpus = ", ".join(f"{name}={value}" for name, value in size.recorded.items() if name in dials)
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# A pocket model

Qwen2 architecture, {made["parameters"] / 1e6:.2f} M parameters, width {size.width}, {size.layers} layers,
pretrained from scratch on {size.tokens / 1e6:g} M tokens of a generated world: invented facts about well-known people
and places in many phrasings, one-hop questions, two-hop questions direct and step by step. It speaks of nothing else.
Nothing it says of a person is true.

Made by `python -m llm.pocket {made_with}` in {made["seconds"] / 60:.0f} min (last mean loss {made["loss"]:.3f},
`pretraining.csv`). Corpus: {corpus}, seed {size.seed}.

What it can do before any adapter, on facts of its own world, greedy (an answer that runs on into another question
counts up to there):

| asked | right | share [95 %] |
|---|---|---|
{chr(10).join(lines)}
"""
    )
    return "\n".join(line.strip("| ").replace(" | ", "  ") for line in lines)


def measure(folder: Path, size: Size, questions: int) -> dict[str, tuple[int, int]]:
    """Hits and totals: one hop by relation, two hops on other pairs direct and step by step (own style, and the prompt
    of Table 6), and the tested pair, which a corpus with skill=other never chains."""
    base, world, rng = load_base(str(folder)), World(size, size.seed), random.Random("card")
    asked: dict[str, list[tuple[str, str]]] = {}
    for relation in RELATIONS:
        facts = rng.choices(list(world.facts[relation].items()), k=questions)
        asked[f"one hop, {relation}"] = [(ask(relation, a, b, rng).prompt, b) for a, b in facts]
    for name, pairs in (("other pairs", OTHER_PAIRS), ("the tested pair", (TESTED_PAIR,))):
        chains = [(pair, *chain) for pair in pairs for chain in world.chains(pair)]
        turns = [(ask_two(pair, a, c, rng).prompt, c) for pair, a, _, c in rng.choices(chains, k=questions)]
        asked[f"two hops direct, {name}"] = turns
        asked[f"two hops step by step in the corpus's words, {name}"] = [
            (rng.choice(OWN_STYLES)[0].format(q=q), c) for q, c in turns
        ]
        asked[f"two hops step by step in the words of Table 6, {name}"] = [(step_by_step(q), c) for q, c in turns]
    found = {}
    for name, turns in asked.items():
        steps = "step by step" in name
        (said,) = answers(base, [None], [q for q, _ in turns], 128 if steps else 32)
        found[name] = (sum(_right(c, answer, steps) for (_, c), answer in zip(turns, said, strict=True)), len(turns))
    return found


def _right(gold: str, answer: str, steps: bool) -> bool:
    """Whether the answer names the right entity: a direct one as protocols score it, one in steps in its last
    sentence."""
    entities = JOBS if gold in JOBS else cities() if gold in cities() else [person.name for person in people()]
    return direct(last_sentence(answer) if steps else answer, gold, entities).lenient
