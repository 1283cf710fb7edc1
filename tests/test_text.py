"""Text from rows: each placeholder says what its rows say, a digit outside one is refused, and the README is what its
rows make of its template."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_reuse.figures import report
from lora_reuse.figures._placeholders import _trials
from lora_reuse.figures._text import MISSING, fill, loose
from lora_reuse.llm.scoring.intervals import difference, holm
from tests.rows_of_models import row, write

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results" / "paper"
TEMPLATES = (report.TEXT, report.README)
RULES = ("uniform", "average", "sum", "arrow", "arrow_after")


def of(rows, placeholder):
    return fill(f"{{{placeholder}}}", rows).text


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Five seeds of five rules in one setup; `arrow` is nearly always right, `sum` now and then, the others never."""
    folder = tmp_path_factory.mktemp("text") / "rows"
    right = {"arrow": lambda seed: [2] * 7 + [seed % 2], "sum": lambda seed: [1] * seed + [0] * (8 - seed)}
    asked: dict[str, Any] = {"setup": "2", "prompting": "steps"}
    return write(
        folder,
        *(
            row(
                "llm_bridge",
                right.get(rule, lambda _: [0] * 8)(seed),
                seed=seed,
                composition=rule,
                marks={"bridge_right": seed},
                **asked,
            )
            for rule in RULES
            for seed in range(5)
        ),
        row("llm_bridge", [1] * 8, model="other", composition="arrow", **asked),
    )


def test_counts_shares_and_seeds(rows):
    cell = "llm_bridge setup=2 prompting=steps composition=sum"
    assert of(rows, f"hits {cell}") == "10/80"
    assert re.fullmatch(r"12 % \[\d, \d\d\]", of(rows, f"share {cell}"))
    assert of(rows, f"seeds {cell}") == "0, 1, 2, 3, 4"
    assert of(rows, f"hits {cell} mark=bridge_right") == "10/80"
    assert of(rows, "share llm_bridge model=other setup=2 prompting=steps composition=arrow") == "50 % (one seed)"


def test_best_and_next(rows):
    cell = "llm_bridge setup=2 prompting=steps"
    assert of(rows, f"best {cell}") == "`arrow`"
    assert of(rows, f"next {cell}") == "`sum`"
    assert of(rows, f"best {cell} among=uniform,sum") == "`sum`"
    assert of(rows, f"hits {cell} composition=best") == of(rows, f"hits {cell} composition=arrow")
    assert of(rows, f"difference {cell} composition=best,next") == of(rows, f"difference {cell} composition=arrow,sum")


def test_a_difference_is_paired_and_corrected_over_all_pairs(rows):
    """Against llm.scoring.intervals itself, with the pairs written out; its sign is that of first less second."""
    shares = {rule: [np.zeros(8)] * 5 for rule in RULES}
    shares["arrow"] = [np.array([2] * 7 + [seed % 2]) / 2 for seed in range(5)]
    shares["sum"] = [np.array([1] * seed + [0] * (8 - seed)) / 2 for seed in range(5)]
    pairs: list[tuple[str, str]] = list(itertools.combinations(RULES, 2))
    found = [difference(shares[one], shares[other]) for one, other in pairs]
    corrected = dict(zip(pairs, holm([seen.p for seen in found if seen]), strict=True))
    for one, other in (("sum", "arrow"), ("average", "sum")):
        said = of(rows, f"difference llm_bridge setup=2 prompting=steps composition={one},{other}")
        back = of(rows, f"difference llm_bridge setup=2 prompting=steps composition={other},{one}")
        mean, low, high = map(int, re.findall(r"[+-]?\d+", said.replace("−", "-"))[:3])
        assert [mean, low, high] == [
            -number for number in map(int, np.array(re.findall(r"[+-]?\d+", back.replace("−", "-"))[:3])[[0, 2, 1]])
        ]
        assert mean == pytest.approx(
            100 * np.mean(np.concatenate(shares[one]) - np.concatenate(shares[other])), abs=0.51
        )
        p = corrected[one, other]
        assert (f"p = {p:.2g}" if p >= 0.001 else "p < 0.001") in said
        assert ("undecided" in said) == (p >= 0.05) == (low <= 0 <= high)


def test_one_seed_tells_no_difference(tmp_path):
    write(tmp_path, *(row("llm_bridge", [1] * 8, composition=rule, setup="2", prompting="steps") for rule in RULES))
    said = of(tmp_path, "difference llm_bridge setup=2 prompting=steps composition=sum,arrow")
    assert said == "a difference that one seed cannot tell"


@pytest.mark.parametrize(
    ("placeholder", "text"),
    [
        ("mean kernel_limit predicted.c_first width=2**24 dim=inf init_scale=std", "0.412"),
        ("mean kernel_limit measured.c_first width=2**24 dim=inf init_scale=std", "0.41223(4)"),
        ("of theorem_3 measured.wins_z composition=oracle", "49 of 49"),
        ("paper 2 base_model=Qwen2.5-7B adaptation=LoRA composition=CAT", "21 %"),
        ("= 3.7 M", "3.7 M"),
    ],
)
def test_numbers_of_theory_and_paper(placeholder, text):
    assert of(PAPER, placeholder) == text


def test_what_is_missing_names_its_command(rows):
    assert (
        of(rows, "hits llm_bridge setup=4 composition=sum")
        == f"({MISSING}: `python -m llm.bridge setup=4 composition=sum`)"
    )
    missing = of(rows, "best llm_bridge model=smollm2 setup=2")
    assert missing == f"({MISSING}: `python -m llm.bridge model=smollm2 setup=2 composition={','.join(RULES)}`)"
    assert (
        of(rows, "of theorem_3 measured.wins_z composition=sum")
        == f"({MISSING}: `python -m theory.sweep experiment=theorem_3 composition=sum`)"
    )
    assert of(rows, "claims confirmed") == f"({MISSING}: `python -m paper_checks`)"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("- **Lead.** It is {}.\n- **Next.** Words.\n", "- **Lead.** {}- **Next.** Words.\n"),
        ("Words.\n\nIt is {} here\nand {} there.\n\nWords.\n", "Words.\n\n{}\nWords.\n"),
        ("\n| a | b |\n|---|---|\n| {} | two |\n", "\n| a | b |\n|---|---|\n| – | two |\n\n– {}"),
    ],
)
def test_what_is_missing_is_said_once_a_point_a_paragraph_and_a_table(rows, part, said):
    missing = f"{MISSING.capitalize()}: `python -m llm.bridge setup=4 composition=sum`.\n"
    assert fill(part.replace("{}", "{hits llm_bridge setup=4 composition=sum}"), rows).text == said.format(missing)


def test_cells_of_a_table_share_what_is_said_first(rows):
    cells = "{hits llm_bridge setup=2 prompting=steps | composition=sum | model=other composition=arrow}"
    assert fill(f"| Setup 2 | {cells} |", rows).text == "| Setup 2 | 10/80 | 8/16 |"


def test_what_is_not_known_is_refused(rows):
    with pytest.raises(ValueError, match=r"\{hit llm_bridge x=1\}: got 'hit'; allowed: hits, share"):
        fill("{hit llm_bridge x=1}", rows)
    with pytest.raises(ValueError, match="Table 2 of the paper has no cell"):
        fill("{paper 2 composition=nothing}", rows)


def test_numbers_link_to_their_rows(rows):
    filled = fill("{hits llm_bridge setup=2 prompting=steps composition=sum}", rows, linked=True)
    ((first, every),) = filled.cited.items()
    assert filled.text == f"[10/80](#row-{first})"
    assert len(every) == 5
    assert every[0] == first


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_no_number_stands_outside_a_placeholder(template):
    assert loose(template.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        *("Arrow answers 125 of 200.", "**88 %**"),
        *("It holds in 93 % [78, 98].", "- **Lead.** The AUC is 0.98.", "| sum | 176 |", "at most 3 of 200 times"),
    ],
)
def test_a_planted_number_is_found(planted):
    text = report.TEXT.read_text()
    assert len(loose(text.replace("## Your model\n", f"## Your model\n\n{planted}\n"))) == 1


@pytest.mark.parametrize(
    "allowed",
    [
        "`width=2**24`",
        *("Table 7 and eq. 19, 20", "Tables 1 and 10", "setups 2, 4 and 5", "{= 3.7 M}", "[x](a#L12)"),
        *("P4 and r2(y)", "SmolLM2-135M-Instruct"),
    ],
)
def test_sizes_and_references_are_no_results(allowed):
    assert loose(f"It is {allowed} here.") == []


@pytest.mark.parametrize("page", ["README.md", "results/figures/report.md"])
def test_committed_rows_have_every_number(page):
    """A mistyped placeholder would read as rows that are missing. `make fresh` fills the page anew and compares."""
    assert MISSING not in " ".join((ROOT / page).read_text().split()).lower()


def test_the_readme_is_what_its_rows_say(tmp_path):
    report.readme(PAPER, tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), (
        "python -m figures only=theorem_2 readme=README.md"
    )


def test_the_readme_is_one_screen_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize(
    "name", ["llm/README.md", "results/README.md", *(path.name for path in ROOT.glob("docs/*.md"))]
)
def test_other_pages_hold_no_results(name):
    """Shares, counts of counts and standard errors: results stand on the page."""
    path = ROOT / name if "/" in name else ROOT / "docs" / name
    assert re.findall(r"\d+ of \d+|± \d|\[\d[\d., ]*\]|AUC", path.read_text()) == []


def test_what_the_words_between_the_numbers_say_holds():
    """On the committed rows; where this fails, the sentence around the numbers has to be written anew."""
    decided = lambda cell: re.fullmatch(r"\+.*(?<!undecided)", of(PAPER, f"difference {cell}"))  # noqa: E731
    share = lambda cell: float(of(PAPER, f"share {cell}").split(" %")[0])  # noqa: E731
    steps = "llm_bridge prompting=steps"
    for setup, best in (("2", "arrow_after"), ("4", "sum"), ("5", "sum")):
        assert of(PAPER, f"best {steps} setup={setup}") == f"`{best}`"
    assert decided(f"{steps} setup=2 composition=arrow_after,average")
    assert decided(f"{steps} setup=5 composition=sum,arrow_after")
    assert not decided(f"{steps} setup=2 composition=arrow_after,arrow")
    assert decided(f"{steps} setup=4 composition=sum,arrow")
    for setup in ("0", "1", "3"):
        assert all(share(f"{steps} setup={setup} composition={rule}") < 5 for rule in RULES)
    assert share(f"{steps} setup=2 composition=sum") < 5
    for setup in range(9):
        assert all(share(f"llm_bridge prompting=direct setup={setup} composition={rule}") <= 5 for rule in RULES)
    direct = "llm_two_hop library=2-combination dataset=R"
    for rule in RULES[1:]:
        assert share(f"{direct} prompting=direct composition={rule}") <= 5
        assert min(share(f"{direct} prompting={hop} composition={rule}") for hop in ("first", "second")) > 95
    assert share(f"{direct} prompting=first composition=uniform") < 20
    assert share("llm_two_hop library=oracle dataset=R composition=alone prompting=steps") == 0
    few, many = ("llm_bridge_minimum prompting=steps bridge_triplets=" + number for number in ("1", "20"))
    assert share(f"{few} composition=arrow_after") > 0.7 * share(f"{many} composition=arrow_after")
    assert share(f"{few} composition=arrow") < 0.7 * share(f"{many} composition=arrow")
    (skills,) = (one for one in _trials(PAPER) if one.question == "two skills, SmolLM2")
    assert skills.lines["decision"].taken == 0
    assert all(library.works for library in skills.libraries)
    probed = [one.lines["MergeProbe"] for one in _trials(PAPER) if "MergeProbe" in one.lines]
    assert len(probed) > 5
    assert all(line.taken == 0 for line in probed)
    known = ("homes", "code", "call", "spanish", "style")
    for several in (many for n in (3, 4, 5) for many in itertools.combinations(known, n)):
        asked = f"llm_skill_sets model=smollm2 library=asked asked={'+'.join(several)} composition="
        assert all(share(f"{asked}{rule}:own") == 0 for rule in ("moe", "cat", "cat_softmax", "lorahub", "lorahub_cat"))
    more = {one.question: one for one in _trials(PAPER) if one.question.startswith("three or more of five skills, ")}
    assert {name.partition(", ")[2] for name in more} == {"mended on, same base", "same base", "SmolLM2"}
    for name, one in more.items():
        assert one.lines["pairwise"].taken > (0.8 if "same base" in name else 0.5) * len(one.libraries)
        assert one.lines["never"].regret < one.lines["decision"].regret < one.lines["pairwise"].regret / 2
        assert sum(library.works for library in one.libraries) < 0.1 * len(one.libraries)
    pair = "llm_two_hop model=smollm2 dataset=R library=2-combination composition=uniform prompting="
    for hop in ("first", "second"):
        assert share(f"{pair}{hop} scale=1.0") < 50 < share(f"{pair}{hop} scale=3.0")
        assert share(f"llm_bridge model=smollm2 setup=2 split=test composition=sum scale=0.75 prompting={hop}") > 50
    bridged = "llm_bridge model=smollm2 setup=4 prompting=steps split=test composition="
    assert share(f"{bridged}cat:own") > 20
    assert share(f"{bridged.replace('setup=4', 'setup=5')}cat:own") > 20
    assert all(share(f"{bridged}{rule}") < 5 for rule in ("uniform", "average", "sum", "arrow", "arrow_after"))
    ten = "llm_large_library graph=shared held_out=12 pairs=direct"
    for rule, hop in itertools.product(("sum", "average", "arrow_after"), ("first", "second")):
        assert share(f"{ten} library=10-combination composition={rule} prompting={hop}") <= 20
        assert share(f"{ten} library=2-combination composition={rule} prompting={hop}") >= 75
    joint = share("llm_methods setup=2 library=data_mix composition=alone prompting=steps")
    examples = "llm_bridge_examples bridge_in=first prompting=steps"
    for count in ("16", "46"):
        for rule in ("sum", "arrow_after"):
            reached = share(f"{examples} choice=compiled examples={count} composition={rule}") >= 0.9 * joint
            assert reached == ((count, rule) == ("46", "sum"))
    drawn = f"{examples} choice=random composition=sum"
    assert share(f"{drawn} examples=4") > share(f"{drawn} examples=46")
    deep = "llm_latent model=results/pocket-8-layers library=2-combination second=right composition=sum split=test"
    assert decided(f"{deep} triplets=10 layers=lower/upper,upper/lower")
    real = "llm_latent model=smollm2 library=2-combination second=right composition=sum split=test"
    for facts in ("10", "20"):
        assert decided(f"{real} triplets={facts} layers=lower/upper,upper/lower")
        whole = share(f"{real} triplets={facts} layers=mlp rank=8 alpha=16")
        assert share(f"{real} triplets={facts} layers=lower/upper") > whole
    assert "## P7, smollm2 (b179c952): void" in (PAPER / "predictions.md").read_text()
    real = "llm_bridge_controls model=smollm2 condition=both_given composition=arrow_after"
    assert share(f"{real} prompting=steps") < 50 < share(f"{real} prompting=direct")
    trained = lambda place: float(of(PAPER, f"mean trained measured.accuracy_among_new {place}").split("(")[0])  # noqa: E731
    for rich in ("depth=2 alpha=0.1", "depth=4 alpha=0.1", "depth=8 alpha=0.1"):
        gain = trained(f"{rich} placement=first_below") - trained(f"{rich} placement=second_below")
        lazy = "depth=4 alpha=100 placement="
        assert gain > trained(f"{lazy}first_below") - trained(f"{lazy}second_below")
    known = "llm_semi_synthetic model=smollm2 fact=birth_country names=fake chat=on steps=150 rate=0.001 replay=true"
    known += " library=1 composition=alone"
    assert share(known) > 3 * share(f"{known} mark=permuted")
    assert "## P8, smollm2 (b179c952): undecided" in (PAPER / "predictions.md").read_text()
    for setup in ("6", "7"):
        assert 25 < share(f"{steps} setup={setup} composition=arrow_after:random") < 35
    for rule, won in (
        ("dare", 1),
        ("sum", 0),
        ("average", 0),
        ("cat", 0),
        ("arrow", 0),
        ("ties", 0),
        ("knots", 0),
        ("lorahub", 0),
    ):
        assert of(PAPER, f"of theorem_3 measured.wins_z composition={rule}") == f"{won} of 49"


def test_pretrainings_of_a_family_are_seeds_of_one_model(tmp_path):
    """By hand: of two pretrainings at a quarter 3 and 1 of 4 answers are right; the exposure of none is not written."""
    for seed, quarter in enumerate(([2, 1], [0, 1])):
        for exposure, right in ((0.25, quarter), (0.0, [2, 2])):
            made = {"width": 256, "seed": seed} | ({"exposure": exposure} if exposure else {})
            name = f"results/pocket-exposure-{exposure}-{seed}"
            write(tmp_path, row("llm_exposure", right, model=name, weights=f"{exposure}{seed}", pocket=made))
    asked = "llm_exposure model=pocket-exposure people=never prompting=direct"
    assert of(tmp_path, f"seeds {asked} exposure=0.25") == "3, 1"
    assert of(tmp_path, f"hits {asked} exposure=0.0") == "8/8"
    (tmp_path / "predictions.md").write_text(
        "| prediction | pocket (0a) | pocket-exposure (the family) |\n|---|---|---|\n"
        "| [P1](#p1) | [undecided](#a) | [supported](#b) |\n"
    )
    assert of(tmp_path, "verdict P1") == "undecided"
    assert of(tmp_path, "verdict P1 pocket-exposure") == "supported"
