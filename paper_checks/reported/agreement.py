"""Where the paper's printed numbers disagree: with each other, with its text, with its own arithmetic, and with whole
numbers of answers."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import pandas
from lora_reuse.paper_checks import reported
from lora_reuse.paper_checks.reported.rules import REPEATED, ROUTED, STATEMENTS, Cells, Rule, cells
from lora_reuse.runs.settings import SettingError

Cell = dict[str, str]
Tables = Mapping[str, pandas.DataFrame]

_RELATIONS = {"=": operator.eq, "~": operator.eq, "<": operator.lt, "<=": operator.le}
_OTHER_SIZES = range(90, 121)  # where a size is looked for when the candidates fail


@dataclass(frozen=True)
class Disagreement:
    """Two places of the paper that cannot both be right, and why they should agree."""

    where_a: str
    value_a: str
    where_b: str
    value_b: str
    why: str


@dataclass(frozen=True)
class Sizes:
    """The test-set sizes n that the percentages k/n of these cells may have, and where those sizes come from."""

    cells: Cells
    candidates: tuple[int, ...]
    source: str


_TWO_HOP = (98, 100, 102), "sizes that the one-decimal cells of R and H, and 100 triplets, suggest"
_GSM_P2 = (100,), "A.4.1: 100 questions"
_MBPP = (257, 500), "the test splits of MBPP, sanitized and full; the paper states no size"

SIZES: tuple[Sizes, ...] = (
    *(Sizes(cells(table), *_TWO_HOP) for table in (1, 2, 7, 8, 9, 10)),
    Sizes(cells(12), _TWO_HOP[0], "the sizes of the other two-hop tables; A.3 states none"),
    *(Sizes(cells(table), *_GSM_P2) for table in (3, 4, 14, 15)),
    Sizes(cells(13, dataset="GSM8K"), (1319,), "the test split of GSM8K"),
    Sizes(cells(13, dataset=("GSM-Symbolic", "GSM-P1")), (500,), "A.4.1: 5 questions of each of 100 seed templates"),
    Sizes(cells(13, dataset="GSM-P2"), *_GSM_P2),
    *(Sizes(cells(table), *_MBPP) for table in (16, 17)),
    Sizes(cells(20), (97,), "A.6: 97 questions"),
)


def select(which: Cells, tables: Tables) -> list[Cell]:
    """The cells that `which` names; a SettingError if there is none."""
    wanted = {label: (value,) if isinstance(value, str) else value for label, value in which.labels.items()}
    records: list[Cell] = tables[which.table].to_dict("records")  # pyright: ignore[reportAssignmentType]
    if unknown := wanted.keys() - set(tables[which.table].columns):
        raise SettingError(which.table, ", ".join(sorted(unknown)), ", ".join(tables[which.table].columns))
    found = [
        cell | {"table": which.table}
        for cell in records
        if all(cell[label] in values for label, values in wanted.items())
    ]
    if not found:
        raise SettingError(which.table, dict(which.labels), "labels that some cell has")
    return found


def pairs(rule: Rule, tables: Tables) -> list[tuple[Cell, Cell]]:
    """The pairs of cells that `rule` compares."""
    key = lambda cell: tuple(cell[label].casefold() for label in rule.by)  # noqa: E731
    right = select(rule.b, tables)
    return [(a, b) for a in select(rule.a, tables) for b in right if key(a) == key(b)]


def repeated_numbers() -> list[Disagreement]:
    """Numbers printed in more than one place, in tables (`rules.REPEATED`) or in the text (`running_text.csv`), that
    differ."""
    tables = reported.tables()
    return _broken(REPEATED, tables) + [found for line in text_lines(tables) for found in _quoted(line, tables)]


def statements() -> list[Disagreement]:
    """Comparisons that the running text makes (`rules.STATEMENTS`) and that cells of its tables contradict."""
    return _broken(STATEMENTS, reported.tables())


def text_lines(tables: Tables) -> list[Cell]:
    """The numbers of the running text that a table should hold too."""
    return [line for line in select(Cells("running_text", {}), tables) if line["of_table"] != "none"]


def quoted_cells(line: Cell, tables: Tables) -> list[Cell]:
    """The cells that a line of the running text speaks of."""
    return select(Cells(line["of_table"], dict(_split(part) for part in line["where"].split("; "))), tables)


def arithmetic() -> list[Disagreement]:
    """Sums, products and bounds among the paper's own numbers that do not hold."""
    tables = reported.tables()
    return [*_design(tables), *_judged(tables), *_soups(tables)]


def counts() -> list[Disagreement]:
    """The percentages that are k/n, rounded or truncated, for none of the candidate sizes n of their table
    (`SIZES`)."""
    tables = reported.tables()
    return [found for sizes in SIZES for cell in select(sizes.cells, tables) for found in _uncounted(cell, sizes)]


def count_options() -> pandas.DataFrame:
    """For each percentage that fits, a row an option: `table`, `row`, `column`, `value`, `k`, `n`, and `how` (rounded,
    truncated or both)."""
    tables = reported.tables()
    found = [
        {name: cell[name] for name in ("table", "row", "column", "value")} | {"k": k, "n": n, "how": how}
        for sizes in SIZES
        for cell in select(sizes.cells, tables)
        for k, n in implied_counts(cell["value"], decimals(cell["value"]), sizes.candidates)
        for how in [printed_as(cell["value"], decimals(cell["value"]), k, n)]
    ]
    return pandas.DataFrame(found)


def implied_counts(percent: str | float, decimals: int, candidates: Iterable[int]) -> list[tuple[int, int]]:
    """Every (k, n), n from `candidates`, such that 100 k / n printed with `decimals` decimals, rounded or truncated, is
    `percent`."""
    step = Fraction(1, 10**decimals)
    target = _exact(percent, step)
    near = {
        n: range(max(0, math.floor((target - step) * n / 100)), min(n, math.ceil((target + step) * n / 100)) + 1)
        for n in candidates
    }
    return [(k, n) for n, whole in near.items() for k in whole if printed_as(percent, decimals, k, n)]


def printed_as(percent: str | float, decimals: int, k: int, n: int) -> str:
    """How 100 k / n becomes `percent`: "rounded" (half up or half even), "truncated", "rounded or truncated", or "" if
    it does not."""
    step = Fraction(1, 10**decimals)
    target, scaled = _exact(percent, step) / step, Fraction(100 * k, n) / step
    ways = {
        "rounded": target in (math.floor(scaled + Fraction(1, 2)), round(scaled)),
        "truncated": target == math.floor(scaled),
    }
    return " or ".join(way for way, fits in ways.items() if fits)


def decimals(value: str) -> int:
    """The number of decimals that `value` is printed with."""
    return len(value.partition(".")[2])


def _exact(percent: str | float, step: Fraction) -> Fraction:
    exact = Fraction(str(percent))
    if exact % step:
        raise SettingError(
            "percent", percent, f"a multiple of {float(step)}", "give the number of decimals it is printed with"
        )
    return exact


def _broken(rules: Iterable[Rule], tables: Tables) -> list[Disagreement]:
    return [
        Disagreement(_place(a), a[rule.field], _place(b), b[rule.field], rule.why)
        for rule in rules
        for a, b in pairs(rule, tables)
        if not _RELATIONS[rule.relation](_value(a[rule.field], a["unit"]), _value(b[rule.field], b["unit"]))
    ]


def _quoted(line: Cell, tables: Tables) -> list[Disagreement]:
    return [
        Disagreement(
            _place(cell),
            cell["value"],
            f"section {line['row']}",
            f"{line['relation']} {line['value']} {line['unit']}",
            line["column"],
        )
        for cell in quoted_cells(line, tables)
        if not _RELATIONS[line["relation"]](
            _value(cell["value"], cell["unit"]), _value(line["value"], line["unit"], cell["unit"])
        )
    ]


def _value(text: str, unit: str, into: str = "") -> Decimal | str:
    """`text` as a number (a fraction of 1 as a percentage where `into` is one), or as words without letter case."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text.casefold()
    return 100 * number if unit == "fraction" and into == "%" else number


def _split(part: str) -> tuple[str, str]:
    label, _, value = part.partition("=")
    return label, value


def _place(cell: Cell) -> str:
    """A cell in words."""
    name = cell["table"].replace("table_0", "table_").replace("table_", "Table ")
    return f"{name}: {cell['row']} / {cell['column']}"


def _uncounted(cell: Cell, sizes: Sizes) -> list[Disagreement]:
    value, places = cell["value"], decimals(cell["value"])
    if implied_counts(value, places, sizes.candidates):
        return []
    others = [str(n) for n in _OTHER_SIZES if implied_counts(value, places, [n])]
    why = f"neither rounded nor truncated; sizes from 90 to 120 that give it: {', '.join(others) or 'none'}"
    if value.endswith("0") and places and (shorter := implied_counts(value[:-1], places - 1, sizes.candidates)):
        why += f"; with its last 0 left off it is {' or '.join(f'{k}/{n}' for k, n in shorter)}"
    exact = Fraction(value)
    k, n = min(
        ((round(exact * n / 100), n) for n in sizes.candidates),
        key=lambda option: abs(Fraction(100 * option[0], option[1]) - exact),
    )
    where = f"k/n with n = {' or '.join(map(str, sizes.candidates))} ({sizes.source})"
    return [Disagreement(_place(cell), value, where, f"nearest {k}/{n} = {100 * k / n:.3f}", why)]


def _design(tables: Tables) -> list[Disagreement]:
    """Sizes of data sets: sums and products of the numbers of sections A.2 to A.4."""
    size = {line["column"]: int(line["value"]) for line in select(Cells("running_text", {"of_table": "none"}), tables)}
    tested = size["triplets of a dataset"] * size["test templates per triplet"]
    told = [
        (
            "triplets x templates",
            size["triplets of a dataset"] * size["templates of a relation"],
            "examples of a relation",
        ),
        (
            "training + development + test templates",
            size["training templates"] + size["development templates"] + size["test templates per triplet"],
            "templates of a relation",
        ),
        (
            "atomic relations + compositions",
            size["atomic relations"] + size["two-hop compositions in training"],
            "adapters in the library",
        ),
        (
            "questions for fine-tuning + selection + evaluation",
            size["questions for fine-tuning"] + size["questions for selection"] + size["questions for evaluation"],
            "questions of a seed template",
        ),
        (
            "seed templates x GSM-P2 questions sampled of each",
            size["seed templates"] * size["GSM-P2 questions sampled of a seed template"],
            "GSM-P2 questions in all",
        ),
    ]
    found = [
        Disagreement(a, str(total), b, str(size[b]), "the text's own sizes") for a, total, b in told if total != size[b]
    ]
    values = [cell["value"] for cell in select(cells(10), tables)]
    misfits = sum(not implied_counts(value, decimals(value), [tested]) for value in values)
    if misfits:
        why = "A.2.1: 2 test templates of each of 100 triplets"
        found.append(
            Disagreement(
                "triplets x test templates",
                str(tested),
                "Table 10",
                f"{misfits} of {len(values)} cells are no k/{tested}",
                why,
            )
        )
    return found


def _judged(tables: Tables) -> list[Disagreement]:
    """Table 15: shares sum to 100, and the judge's right answers differ from exact match (Table 14) only where the two
    do not agree."""
    found = []
    for row in ("None", *ROUTED):
        for group in ("Solution Types", "Error Types"):
            total = sum(int(cell["value"]) for cell in select(cells(15, composition=row, group=group), tables))
            if total != 100:
                found.append(
                    Disagreement(
                        f"Table 15: {row} / {group}", str(total), "all solutions", "100", "shares of one whole"
                    )
                )
        judged, agreed = (
            select(cells(15, composition=row, column=name), tables)[0]
            for name in ("Error Types | None (Correct)", "Agreement")
        )
        rule = "Base Model Only" if row == "None" else row
        matched = select(cells(14, prompting="0-shot", composition=rule, base_model=judged["base_model"]), tables)[0]
        apart, differing = abs(int(judged["value"]) - int(matched["value"])), 100 - int(agreed["value"])
        if apart > differing or (differing - apart) % 2:
            why = f"of 100 answers {differing} are judged otherwise, so the numbers of right ones differ by at most that, and by an even number less"
            found.append(Disagreement(_place(judged), judged["value"], _place(matched), matched["value"], why))
    return found


def _soups(tables: Tables) -> list[Disagreement]:
    """LoRA Soups: the relative gains and the percentage points must leave one accuracy of the base model, all rounded
    to whole numbers."""
    value = {
        (cell["section"], cell["skills"], cell["unit"]): Fraction(cell["value"])
        for cell in select(Cells("lora_soups", {}), tables)
    }
    gain = {skill: value["Key Results", skill, "% gain"] / 100 for skill in ("math", "code", "math and code")}
    points = {skill: value["Mechanism 2", skill, "% points"] for skill in ("math", "code")}
    solved = {skill: value["Mechanism 2", skill, "%"] for skill in ("either of math and code", "math and code")}
    times = [(points[skill], gain[skill]) for skill in points]
    times += [
        (solved["math and code"], 1 + gain["math and code"]),
        (solved["either of math and code"], 1 + gain["math"] + gain["code"]),
    ]
    half = Fraction(1, 2)
    low, high = (
        max((number - half) / factor for number, factor in times),
        min((number + half) / factor for number, factor in times),
    )
    found = []
    if low > high:
        told = ", ".join(f"{float(number):g} / {float(factor):g}" for number, factor in times)
        found.append(
            Disagreement(
                "LoRA Soups: Key Results",
                told,
                "LoRA Soups: Mechanism 2",
                "no accuracy of the base model",
                "gains and points",
            )
        )
    bound = value["Mechanism 2", "either of math and code", "% points"]
    if sum(points.values()) != bound:
        found.append(
            Disagreement(
                "LoRA Soups: Mechanism 2", "math + code", "LoRA Soups: Mechanism 2", str(bound), "the sum of both gains"
            )
        )
    return found
