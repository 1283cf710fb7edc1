"""What a placeholder of a template says: one function a verb, from rows to text and the hashes of its rows.

    {hits EXPERIMENT SETTINGS}               176/200, over all seeds; `mark=bridge_right` counts another mark
    {share EXPERIMENT SETTINGS}              88 % [78, 94], with its interval over seeds (`llm.scoring.intervals`)
    {seeds EXPERIMENT SETTINGS}              35, 38, 36, 33, 34: the hits of each seed
    {best EXPERIMENT SETTINGS}, {next ...}   the rule with the most hits of `among=RULE,...`, and the second
    {difference EXPERIMENT SETTINGS}         +62 points [40, 85], p = 0.001: paired over seeds, of the one setting that
                                             has two values `a,b`
    {mean EXPERIMENT COLUMN SETTINGS}        0.41223(5): over seeds, with the rows' own standard error in the last digit
    {of EXPERIMENT COLUMN SETTINGS}          3 of 16: in how many rows it is true
    {rows EXPERIMENT SETTINGS}               how many rows there are
    {decided regret SCORE QUESTION}          3.1 [0, 6.3]: points, with the interval over seeds, of a score's decisions
                                             about two adapters (`llm.forecast.trial`); `AUC` likewise, in shares
    {paper TABLE LABEL=VALUE ...}            what the paper's table prints, in its own unit
    {claims VERDICT}, {verdict P1}           how many claims of the ledger have a verdict; that of a prediction for the
                                             pocket model, or for one that is named after it

SETTINGS are `name=value` words as commands take them. A language model's are of the pocket model, plain LoRA and the
MLP where they name no other. A rule may be `best` or `next`: of `among` (the five rules of Table 1 where it is not
given) the one with the most hits, or the second. A `difference` is corrected by Holm's method over all pairs of
`among`; its interval has the level at which Holm's test decides about it, so that it leaves out zero where the
corrected p is below 0.05. A cell whose positive control failed (`llm.protocols.controls`) is followed by "(void)"."""

import functools
import itertools
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from scipy import stats

from lora_reuse.figures._cells import of_rows, reported
from lora_reuse.figures._groups import OWN, grouped
from lora_reuse.figures.rows import Rows
from lora_reuse.llm.forecast.merge_probe import forecasts
from lora_reuse.llm.forecast.trial import Trial, trials, unlike_prompts
from lora_reuse.llm.protocols.settings import COMPOSITIONS
from lora_reuse.llm.scoring.intervals import difference, holm
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import short

USUAL = {"model": "pocket", "layers": "mlp", "adapter": "lora"}


class NotMeasured(Exception):
    """There are no such rows; the message is the command that makes them."""


Said = tuple[str, Sequence[str]]
"""What stands in a placeholder's place, and the hashes of its rows."""


def _settings(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _command(experiment: str, wanted: dict[str, str]) -> str:
    given = " ".join(f"{name}={value}" for name, value in wanted.items() if USUAL.get(name) != value)
    module, protocol = (
        ("llm", experiment.removeprefix("llm_")) if experiment.startswith("llm_") else ("theory", "sweep")
    )
    return f"python -m {module}.{protocol}{'' if module == 'llm' else f' experiment={experiment}'} {given}".rstrip()


def _groups(rows: Path, experiment: str, wanted: dict[str, str]) -> dict[tuple[str, ...], pandas.DataFrame]:
    """Rows that differ in the seed alone, by the values of `wanted`; of each setting one or several, with commas
    between them."""
    axes = [name for name in wanted if name != "model"]
    files = tuple(
        (path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(rows.glob(f"{experiment}.*"))
    )
    found = _grouped(rows, experiment, tuple(axes), files)
    ours = OWN.get(experiment, {}).get(wanted.get("data", "own"), "")
    models = [f"{model}, {ours}" if ours else model for model in wanted["model"].split(",")]
    keys = list(itertools.product(models, *(wanted[name].split(",") for name in axes)))
    if any(key not in found for key in keys):
        raise NotMeasured(_command(experiment, wanted))
    return {key: found[key] for key in keys}


@functools.lru_cache(maxsize=64)
def _grouped(
    rows: Path, experiment: str, axes: tuple[str, ...], files: tuple[tuple[str, int, int], ...]
) -> Mapping[tuple[str, ...], pandas.DataFrame]:
    """Sorted out once; `files` changes when they do."""
    return grouped(Rows(rows, {experiment: ""}), [experiment], axes)[0]


def _asked(words: Sequence[str]) -> tuple[str, dict[str, str], list[str], str]:
    """The experiment, its settings, the rules to choose among, and the mark that is counted."""
    wanted = USUAL | _settings(words[1:])
    among = wanted.pop("among", ",".join(COMPOSITIONS)).split(",")
    return words[0], wanted, among, wanted.pop("mark", "hits")


def _ranked(rows: Path, experiment: str, wanted: dict[str, str], among: Sequence[str], mark: str) -> list[str]:
    """The rules, by falling share."""
    groups = _groups(rows, experiment, wanted | {"composition": ",".join(among)})
    shares = [of_rows(group, mark)["percent"] for group in groups.values()]
    return [rule for _, rule in sorted(zip(shares, among, strict=True), key=lambda pair: -pair[0])]


def _named(rows: Path, words: Sequence[str]) -> tuple[str, dict[str, str], list[str], str]:
    """As `_asked`, with the names of the rules in place of `best` and `next`."""
    experiment, wanted, among, mark = _asked(words)
    if {"best", "next"} & set(wanted.get("composition", "").split(",")):
        places: dict[str, str] = dict(
            zip(("best", "next"), _ranked(rows, experiment, wanted, among, mark), strict=False)
        )
        wanted["composition"] = ",".join(places.get(rule, rule) for rule in wanted["composition"].split(","))
    return experiment, wanted, among, mark


def _cell(rows: Path, words: Sequence[str]) -> tuple[pandas.DataFrame, dict[str, Any]]:
    experiment, wanted, _, mark = _named(rows, words)
    (group,) = _groups(rows, experiment, wanted).values()
    return group, of_rows(group, mark)


def _void(cell: dict[str, Any]) -> str:
    return " (void)" if cell.get("void") else ""


def _hits(rows: Path, words: Sequence[str]) -> Said:
    group, cell = _cell(rows, words)
    return f"{cell['hits']}/{cell['total']}{_void(cell)}", list(group["hash"])


def _share(rows: Path, words: Sequence[str]) -> Said:
    group, cell = _cell(rows, words)
    interval = "(one seed)" if math.isnan(cell["low"]) else f"[{cell['low']:.0f}, {cell['high']:.0f}]"
    return f"{cell['percent']:.0f} % {interval}{_void(cell)}", list(group["hash"])


def _seeds(rows: Path, words: Sequence[str]) -> Said:
    group = _cell(rows, words)[0].sort_values("settings.seed")
    return ", ".join(f"{hits:.0f}" for hits in group[f"measured.{_asked(words)[3]}"]), list(group["hash"])


def _best(rows: Path, words: Sequence[str], place: int = 0) -> Said:
    experiment, wanted, among, mark = _asked(words)
    return f"`{_ranked(rows, experiment, wanted, among, mark)[place]}`", []


def _by_triplet(group: pandas.DataFrame) -> dict[int, np.ndarray]:
    """The share of right answers of each triplet, or group of questions, by seed."""
    found = {}
    for line in group.to_dict("records"):
        right = np.array(line["measured.by_group"] if "measured.by_group" in line else line["measured.by_triplet"])
        found[line["settings.seed"]] = right / line.get("measured.group_sizes", line["measured.total"] / len(right))
    return found


def _difference(rows: Path, words: Sequence[str]) -> Said:
    experiment, wanted, among, _ = _named(rows, words)
    (axis,) = (name for name, value in wanted.items() if "," in value)
    asked = wanted[axis].split(",")
    compared = among if axis == "composition" else asked
    groups = dict(zip(compared, _groups(rows, experiment, wanted | {axis: ",".join(compared)}).values(), strict=True))
    shares = {name: _by_triplet(group) for name, group in groups.items()}
    found = {}
    for pair in itertools.combinations(compared, 2):
        one, other = (shares[name] for name in pair)
        seeds = sorted(set(one) & set(other))
        found[pair] = difference([one[seed] for seed in seeds], [other[seed] for seed in seeds]), len(seeds)
    hashes = [name for rule in asked for name in groups[rule]["hash"]]
    if any(seen is None for seen, _ in found.values()):
        return "a difference that one seed cannot tell", hashes
    corrected = dict(zip(found, holm([seen.p for seen, _ in found.values()]), strict=True))
    pair = next(pair for pair in found if set(pair) == set(asked))
    (seen, seeds), p, sign = found[pair], corrected[pair], 1 if pair == tuple(asked) else -1
    # Holm multiplies p by so much; the interval of that level leaves out zero exactly where the corrected p is below
    # 0.05.
    level, freedom = 0.05 * (seen.p / p if p else 1.0), seeds - 1
    error = (
        abs(seen.mean) / stats.t.isf(seen.p / 2, freedom)
        if seen.p < 1
        else (seen.high - seen.mean) / stats.t.isf(0.025, freedom)
    )
    half = float(error * stats.t.isf(level / 2, freedom))
    low, high = (round(100 * end) for end in (max(-1.0, sign * seen.mean - half), min(1.0, sign * seen.mean + half)))
    said = f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
    return f"{100 * sign * seen.mean:+.0f} points [{low}, {high}], {said}{'' if p < 0.05 else ': undecided'}".replace(
        "-", "−"
    ), hashes


def _chosen(rows: Path, experiment: str, wanted: dict[str, str], column: str = "hash") -> pandas.DataFrame:
    """The rows with these settings that hold a column; of a language model those of USUAL where they name no other."""
    table = Rows(rows, {experiment: ""}).all(experiment)
    if experiment.startswith("llm_"):
        wanted = {name: value for name, value in USUAL.items() if f"settings.{name}" in table} | wanted
    for name, value in wanted.items():
        if not table.empty:
            table = table[[_is(there, value) for there in table[f"settings.{name}"]]]
    if table.empty or column not in table or table[column].isna().all():
        raise NotMeasured(_command(experiment, wanted))
    return table.dropna(subset=[column])


def _is(there: Any, value: str) -> bool:
    """Whether a setting in a row is the one that a word writes: `2**14`, `inf`, `sum`."""
    if isinstance(there, numbers.Real) and not isinstance(there, bool):
        base, _, power = value.partition("**")
        return float(there) == (float(base) ** int(power) if power else float(base))
    return short(there) == value


def _mean(rows: Path, words: Sequence[str]) -> Said:
    table = _chosen(rows, words[0], _settings(words[2:]), words[1])
    values, said = table[words[1]].astype(float), f"stderr.{words[1].partition('.')[2]}"
    if words[1].startswith("predicted.") or values.nunique() == 1:
        return f"{values.mean():.3g}", list(table["hash"])
    own = said in table and table[said].notna().all()
    error = (
        math.sqrt((table[said].astype(float) ** 2).sum()) / len(table)
        if own
        else float(values.std() / math.sqrt(len(values)))
    )
    digits = max(0, -math.floor(math.log10(error)))
    return f"{values.mean():.{digits}f}({error * 10**digits:.0f})", list(table["hash"])


def _of(rows: Path, words: Sequence[str]) -> Said:
    table = _chosen(rows, words[0], _settings(words[2:]), words[1])
    return f"{int(table[words[1]].astype(bool).sum())} of {len(table)}", list(table["hash"])


def _rows(rows: Path, words: Sequence[str]) -> Said:
    return str(len(_chosen(rows, words[0], _settings(words[1:])))), []


def _decided(rows: Path, words: Sequence[str]) -> Said:
    question = " ".join(words[2:])
    asked = {one.question: one for one in _trials(rows)}
    if question not in asked:
        raise NotMeasured("python -m llm.forecast validate=results/paper")
    found, line = asked[question], asked[question].lines[words[1]]
    regret = words[0] == "regret"
    value, limits = (100 * line.regret, line.regret_limits) if regret else (line.area.value, line.area_limits)
    form, factor = (".1f", 100) if regret else (".2f", 1)
    shown = " (one seed)" if found.seeds == 1 else ""
    if limits:
        shown = f" [{factor * limits.low:{form}}, {factor * limits.high:{form}}]"
    return f"{value:{form}}{shown}", [found.rows[0]["hash"]]


@functools.cache
def _trials(rows: Path) -> list[Trial]:
    unlike = unlike_prompts(load_rows(rows, "llm_skills"))
    return list(trials(forecasts(rows), unlike))


def _paper(_: Path, words: Sequence[str]) -> Said:
    printed = reported(int(words[0]), **_settings(words[1:]))
    if not printed:
        raise ValueError(f"Table {words[0]} of the paper has no cell {' '.join(words[1:])}")
    return printed if "%" in printed else f"{printed} %", []


def _lines(path: Path, made_by: str) -> list[str]:
    if not path.is_file():
        raise NotMeasured(made_by)
    return path.read_text(encoding="utf-8").splitlines()


def _claims(rows: Path, words: Sequence[str]) -> Said:
    lines = [line for line in _lines(rows / "ledger.md", "python -m paper_checks") if line.startswith("| [")]
    verdicts = [line.split(" | ")[2] for line in lines]
    return str(len(verdicts) if words == ["all"] else verdicts.count(" ".join(words))), []


def _verdict(rows: Path, words: Sequence[str]) -> Said:
    lines = _lines(rows / "predictions.md", "python -m paper_checks.predictions")
    head, line = (
        next((line for line in lines if line.startswith(start)), "") for start in ("| prediction |", f"| [{words[0]}](")
    )
    models = [name.strip().partition(" (")[0] for name in head.split("|")]
    cells = re.split(r"(?<!\\)\|", line)
    model = words[1] if len(words) > 1 else "pocket"
    if model not in models or len(cells) != len(models):
        raise NotMeasured("python -m paper_checks.predictions")
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", cells[models.index(model)]).strip(), []


VERBS: dict[str, Callable[[Path, Sequence[str]], Said]] = {
    **{"hits": _hits, "share": _share, "seeds": _seeds, "difference": _difference},
    **{"best": _best, "next": functools.partial(_best, place=1)},
    **{"mean": _mean, "of": _of, "rows": _rows, "decided": _decided, "paper": _paper},
    **{"claims": _claims, "verdict": _verdict},
}
