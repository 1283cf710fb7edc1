"""Forecasts for rows that exist, to compare with what these rows measured.

A forecast is made with the same experts on the same base, from held-out questions that were not scored. It reads no
answers. Of facts the rows are those of two experts, of skills those of any number."""

import dataclasses
import itertools
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_reuse.llm.adapters.lowrank import cosine
from lora_reuse.llm.adapters.training import Spec
from lora_reuse.llm.compositions import Composition
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.forecast import HOPED, merge_probe, trial
from lora_reuse.llm.forecast.first_steps import signals
from lora_reuse.llm.forecast.left_out import rest
from lora_reuse.llm.forecast.measure import measure
from lora_reuse.llm.forecast.ranking import KINDS
from lora_reuse.llm.forecast.ranking_text import ranking
from lora_reuse.llm.forecast.verdict import Forecast, forecast
from lora_reuse.llm.protocols.by_name import protocol_in, protocol_of
from lora_reuse.llm.protocols.composed import library_on, make
from lora_reuse.llm.protocols.dials import LEARNED
from lora_reuse.llm.protocols.hops import counts, subset_of
from lora_reuse.llm.protocols.measure import base_of, train_one
from lora_reuse.llm.protocols.protocol import Protocol, library_of
from lora_reuse.llm.protocols.settings import Options, preset_of
from lora_reuse.runs.progress import progress_bar
from lora_reuse.runs.provenance import provenance
from lora_reuse.runs.rows import Rows, load_rows
from lora_reuse.runs.settings import SettingError

EXPERIMENT = "llm_forecast"
NOT_COMPOSED = ("base", "alone", "random")
"""The compositions that are asked but compose no adapters."""
SKIPPED = (SettingError, OSError)
_SAME = {"prompting": "direct", "formats": "known"}
"""Settings that do not change a composition, each with the value under which the composition is kept."""

Row = Mapping[str, Any]
Compositions = dict[tuple[tuple[Spec, ...], Any], Composition | None]


class Case(NamedTuple):
    """A row with the point it was measured at, its protocol, and what makes its experts."""

    row: Row
    protocol: Protocol
    point: Any
    specs: tuple[Spec, ...]


def validate(folder: Path, out: Path, options: Any) -> str:
    """Forecasts every row of composed experts in `folder` that `_case` takes and returns the tables of `ranking` and
    `trial`, what was left out, and how many rows there are.

    The forecasts are rows of llm_forecast.jsonl in `out`, and experts that are not there are trained into it; what
    MergeProbe looks at is in llm_merge_probe.jsonl. Raises SettingError for a folder without such rows."""
    rows = load_rows(folder)
    own = protocol_in(Path(options.protocol)) if options.protocol else None
    cases = [case for row in rows if (case := _case(row, own))]
    if not cases:
        raise SettingError(
            "validate",
            f"{folder}, without rows of composed experts",
            "rows of llm.two_hop, llm.bridge, llm.placement, ...",
        )
    kept = Rows(out, EXPERIMENT)
    known = {row["settings"]["row"] for row in kept.known.values() if row["settings"]["asked"] == options.asked}
    run = Options(
        out=str(out), device=options.device, device_map=options.device_map, trust_remote_code=options.trust_remote_code
    )
    source = provenance("torch", "transformers", "peft", "safetensors")
    left_out: Counter[str] = Counter()
    made: Compositions = {}
    todo = [case for case in cases if case.row["hash"] not in known]
    with progress_bar(total=len(todo), desc="forecasts", unit="row") as bar:
        for group in _groups(todo):
            try:
                base = base_of(group[0].point, run)
            except SKIPPED as error:
                left_out[f"rows of {group[0].point.model}: {error}"] += len(group)
                bar.update(len(group))
                continue
            here = [case for case in group if case.row["provenance"]["base_digest"] == base.digest]
            if other := len(group) - len(here):
                left_out[f"rows of {group[0].point.model}: other weights than the model of that name has now"] += other
            for row in _forecasts(base, here, run, options.asked, made) if here else ():
                kept.append(row | {"provenance": source | {"base_digest": base.digest, "device": str(base.device)}})
            bar.update(len(group))
    forecast_rows = [row for row in kept.known.values() if row["settings"]["asked"] == options.asked]
    probes = _probes(forecast_rows, {case.row["hash"]: case for case in cases}, run, source, left_out)
    wanted = {case.row["hash"] for case in cases}
    forecasts = [row for row in forecast_rows if row["settings"]["row"] in wanted]
    tried = merge_probe.beside([*kept.known.values()], probes)
    table = "\n\n".join(filter(None, (ranking(forecasts), trial.text(tried, trial.unlike_prompts(rows)))))
    notes = [f"left out {count} {why}" for why, count in left_out.items()]
    return "\n".join([table, *notes, f"{len(kept.known)} rows in {kept.path}"])


def _probes(
    forecasts: Sequence[Row], cases: Mapping[str, Case], run: Options, source: dict[str, Any], left_out: Counter[str]
) -> list[Row]:
    """The rows of llm_merge_probe, with one for each two experts of these forecasts whose base is here."""
    kept = Rows(Path(run.out), merge_probe.EXPERIMENT)
    known = {row["settings"]["pair"] for row in kept.known.values()}
    pairs = {row["settings"]["pair"]: cases.get(row["settings"]["row"]) for row in forecasts}
    todo = [(pair, case) for pair, case in pairs.items() if case and len(case.specs) == 2 and pair not in known]
    for pair, case in progress_bar(todo, desc="first steps", unit="pair"):
        try:
            base = base_of(case.point, run)
        except SKIPPED as error:
            left_out[f"pairs of {case.point.model}, whose first steps are not measured: {error}"] += 1
            continue
        if _pair(base, case.specs) != pair:
            left_out[
                f"pairs of {case.point.model}, whose first steps are not measured: other weights or experts now"
            ] += 1
            continue
        kept.append(
            {
                "experiment": merge_probe.EXPERIMENT,
                "settings": {"model": case.point.model, "pair": pair, "share": merge_probe.SHARE},
                "measured": signals(base, case.specs),
                "predicted": {},
                "stderr": {},
                "provenance": source | {"base_digest": base.digest, "device": str(base.device)},
            }
        )
    return [*kept.known.values()]


def _case(row: Row, own: Protocol | None) -> Case | None:
    """The row as a case, or None for one of another kind; `own` is a protocol that is not in `llm`."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["settings"].items()}
    composition = settings.get("composition")
    if composition in (None, *NOT_COMPOSED) or "hits" not in row["measured"]:
        return None
    if "@" in composition:  # a rule in a file of one's own, which is not here
        return None
    try:
        protocol = own if own and own.experiment == row["experiment"] else protocol_of(row["experiment"])
    except SettingError:
        return None
    seed, fields = settings.pop("seed"), {f.name for f in dataclasses.fields(protocol.axes)}
    if (protocol.counts is not counts and not protocol.hoped) or settings.keys() - fields:
        return None
    point = protocol.axes(**settings)
    hoped = protocol.hoped(point, seed, 1) if protocol.hoped else {"a": [], "b": [], HOPED: []}
    if hoped is None:
        return None
    specs = tuple(library_of(protocol, point, seed))
    return Case(row, protocol, point, specs) if len(specs) == len(hoped) - 1 else None


def _subset(case: Case) -> str:
    return subset_of(case.protocol.questions(case.point, case.row["settings"]["seed"]))


def _groups(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Groups of cases that share their experts and a kind of question. Models follow one another, and compositions
    that learn come last."""
    found: dict[tuple, list[Case]] = {}
    for case in cases:
        p = case.point
        key = (
            p.model,
            p.dtype,
            p.chat,
            case.specs,
            _subset(case),
            getattr(p, "split", ""),
            _prompting(case),
            getattr(p, "formats", ""),
            case.row["settings"]["seed"],
            p.composition in LEARNED,
        )
        found.setdefault(key, []).append(case)
    order = lambda point: (point.composition in LEARNED, point.model, point.dtype, point.chat)  # noqa: E731
    yield from sorted(found.values(), key=lambda group: order(group[0].point))


def _forecasts(base: Base, cases: list[Case], run: Options, asked: int, made: Compositions) -> Iterator[dict[str, Any]]:
    """The rows of a group. `made` keeps the compositions of its experts for other kinds of question, since some rules
    learn for minutes."""
    point, seed, specs = cases[0].point, cases[0].row["settings"]["seed"], cases[0].specs
    for spec in specs:
        train_one(point, spec, run)
    experts = Path(run.out) / "experts"
    library = library_on(base, specs, experts)
    subset = _subset(cases[0])
    if any(known != specs for known, _ in made):
        made.clear()
    compositions = {}
    for case in cases:
        key = (
            specs,
            dataclasses.replace(case.point, **{name: word for name, word in _SAME.items() if hasattr(point, name)}),
        )
        if key not in made:
            made[key] = make(base, case.point, specs, subset, seed, experts).composition
        compositions[case.row["hash"]] = made[key]
    prompting = _prompting(cases[0])
    longest = point.step_tokens if prompting == "steps" else point.answer_tokens
    without = {}
    if len(specs) > 2:
        for case in cases:
            without[case.row["hash"]] = [
                make(base, case.point, rest(specs, i), subset, seed, experts).composition for i in range(len(specs))
            ]
    measured = measure(base, library, compositions, prompts(cases[0], asked), longest, without)
    alike = statistics.fmean(cosine(*two) for two in itertools.combinations(library, 2))
    for case in cases:
        found = forecast(measured.composed[case.row["hash"]])
        settings = {key: case.row["settings"][key] for key in ("model", "composition", "seed")} | {
            "prompting": prompting
        }
        settings |= {"of": case.row["experiment"], "row": case.row["hash"], "pair": _pair(base, specs), "asked": asked}
        settings |= {"seen": preset_of(point.model) == "pocket" and seed == 0}
        yield {
            "experiment": EXPERIMENT,
            "settings": settings,
            "measured": {**_measured(found, prompting), "cosine": alike}
            | {"own_confidence": [own.confidence for own in measured.own]}
            | ({"size": found.size} if without else {})
            | {name: case.row["measured"][name] for name in ("hits", "total")},
            "predicted": {},
            "stderr": {},
        }


def prompts(case: Case, count: int) -> dict[str, list[str]]:
    """`count` prompts of each set, about the same people, or those that the protocol itself gives. An adapter's own
    prompts have templates it was trained on; the hoped-for prompts have held-out templates that were not scored."""
    point, seed = case.point, case.row["settings"]["seed"]
    if case.protocol.hoped:
        return case.protocol.hoped(point, seed, count) or {}
    subset = _subset(case)
    dataset, pair = subset[0], subset[1:]
    other = {"test": "dev", "dev": "test"}[point.split]
    kind = {"direct": pair, "steps": f"{pair}-CoT", "first": pair[0], "second": pair[1]}[point.prompting]

    def some(subset: str, split: str) -> list[str]:
        facts = facts_of(subset, point.triplets, seed)
        every = examples(subset, facts, split)
        many = len(every) // len(facts)
        return [every[(i % many) * len(facts) + i].question for i in range(min(count, len(facts)))]

    return {
        "a": some(case.specs[0].own[0], "train"),
        "b": some(case.specs[1].own[0], "train"),
        HOPED: some(dataset + kind, other),
    }


def _prompting(case: Case) -> str:
    """The way of asking, in the words of `KINDS`; a protocol that has none asks what needs both or all experts."""
    return getattr(case.point, "prompting", "both" if len(case.specs) == 2 else "all")


def _measured(found: Forecast, prompting: str) -> dict[str, Any]:
    """The scores of a row. A one-hop question is scored by what the composition leaves of its expert: `kept` and
    `own_scale`."""
    values: dict[str, Any] = {
        "confidence": found.confidence,
        "verdict": found.verdict,
        "kept": list(found.kept),
        "own_scale": list(found.own_scale),
    }
    values |= {f"whose_{name}": share for name, share in found.whose.items()}
    if prompting in KINDS["keeps"]:
        return values | {"hidden": found.own_scale[KINDS["keeps"].index(prompting)]}
    values |= {"score": found.score, "united": found.united, "hidden": found.hidden}
    return values | {"called": found.verdict == "composed"}


def _pair(base: Base, specs: Sequence[Spec]) -> str:
    return json.dumps([spec.key(base) for spec in specs])
