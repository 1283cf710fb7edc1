"""Sums, products and bounds among the paper's own numbers that do not hold."""

from fractions import Fraction

from lora_reuse.paper_checks import reported
from lora_reuse.paper_checks.reported.agreement import Disagreement, Tables, place, select
from lora_reuse.paper_checks.reported.counts import decimals, implied_counts
from lora_reuse.paper_checks.reported.rules import ROUTED, Cells, cells


def arithmetic() -> list[Disagreement]:
    """Sums, products and bounds among the paper's own numbers that do not hold."""
    tables = reported.tables()
    return [*_design(tables), *_judged(tables), *_soups(tables)]


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
            why = (
                f"of 100 answers {differing} are judged otherwise, so the numbers of right ones differ by at most that,"
                " and by an even number less"
            )
            found.append(Disagreement(place(judged), judged["value"], place(matched), matched["value"], why))
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
