"""Where adapters sit: what layers= may say, which modules that is, and rules on experts that share no layer."""

import re
from pathlib import Path

import pytest
import torch

from lora_reuse.llm import latent
from lora_reuse.llm.adapters.folders import linear_shape, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.places import Layers, place
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.latent import PROTOCOL, Latent, experts
from lora_reuse.llm.protocols.composed import collisions
from lora_reuse.llm.protocols.dials import GIVEN
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.test_latent import SMALL, TEXT
from tests.llm.tiny import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlp", "mlp"),
        ("both", "both"),
        ("lower", "lower"),
        ("mlp:lower", "lower"),
        ("attention:upper", "attention:upper"),
        ("0-14", "0-14"),
        ("both:00-07", "both:0-7"),
        ("lower/upper", "lower/upper"),
        ("lower/mlp:lower", "lower"),
        ("0-14/15-29", "0-14/15-29"),
    ],
)
def test_a_place_is_written_in_one_way(text, said):
    assert Layers().parse(text) == said == Layers().parse(said)


@pytest.mark.parametrize("text", ["", "lower/", "mlp:", "3-2", "1-", "-1", "lower:mlp", "mlp:mlp", "a-b", "none", "1"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match=r"^$"):
        Layers().parse(text)


def test_another_word_stands_alone():
    assert Layers("none").parse("none") == "none"
    with pytest.raises(ValueError, match=r"^$"):
        Layers("none").parse("none/mlp")


@pytest.mark.parametrize(("count", "lower"), [(1, 0), (2, 1), (5, 2), (30, 15)])
def test_the_halves_part_the_layers(count, lower):
    halves = [list(place(word).numbers(count)) for word in ("lower", "upper")]
    assert [*halves[0], *halves[1]] == list(place("mlp").numbers(count)) == list(range(count))
    assert len(halves[0]) == lower


def test_adapters_sit_where_their_place_says(folder):
    model = load_base(str(folder)).model
    every = target_modules(model, "both")
    for said, layer, part in (("lower", 0, "mlp"), ("upper", 1, "mlp"), ("attention:1-1", 1, "self_attn")):
        assert target_modules(model, said) == [name for name in every if f"layers.{layer}.{part}." in name] != []
    assert target_modules(model, "0-1") == target_modules(model, "mlp")
    with pytest.raises(SettingError, match=r"^layers: got 1-2 for a model of 2 layers; allowed: layers from 0 to 1$"):
        target_modules(model, "1-2")
    with pytest.raises(SettingError, match=r"^layers: got 'lower/upper'; allowed: mlp \| .* attention:upper"):
        target_modules(model, "lower/upper")


def test_each_expert_has_its_place_and_is_trained_once_for_all_placements(folder):
    base = load_base(str(folder))
    named = {said: experts(Latent(triplets=3, layers=said), 0) for said in ("lower", "upper", "lower/upper")}
    assert [spec.training.layers for spec in named["lower/upper"]] == ["lower", "upper"]
    keys = {said: [spec.key(base) for spec in each] for said, each in named.items()}
    assert keys["lower/upper"] == [keys["lower"][0], keys["upper"][1]]
    assert len({*keys["lower"], *keys["upper"]}) == 4
    dealt = experts(Latent(triplets=3, layers="lower/upper", second="dealt"), 0)
    assert dealt[1].training == named["lower/upper"][1].training


def test_an_expert_without_a_place_is_refused_in_one_line(folder, tmp_path, capsys):
    words = [f"model={folder}", *SMALL, "library=mixed", f"out={tmp_path / 'rows'}"]
    assert main(PROTOCOL, [*words, "layers=lower/upper"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"llm\.latent: layers: got lower/upper, which says nothing of expert 4; allowed: .*\n", said)
    assert main(PROTOCOL, [*words, "layers=lowr"]) == 2
    assert "layers: got 'lowr'; allowed: mlp | attention" in (said := capsys.readouterr().err)
    assert "did you mean 'lower'?" in said
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("0-1=1:0/2-9=0:1", "and no adapter has a module in layers 2-9; allowed: layers from 0 to 1"),
        ("0-0=1:0", "which says nothing of model.layers.1.mlp.gate_proj; allowed: weights for layer 1, too"),
    ],
)
def test_weights_by_layers_that_do_not_fit_are_refused_before_anything_is_trained(
    weights, said, folder, tmp_path, capsys
):
    words = [f"model={folder}", *SMALL, "library=2-combination", f"out={tmp_path / 'rows'}"]
    assert main(PROTOCOL, [*words, "composition=sum,average,cat", f"weights={weights}"]) == 2
    assert f"llm.latent: weights: got {weights}, {said}" in capsys.readouterr().err
    assert not (tmp_path / "rows" / "experts").exists()


def test_theory_has_no_bound_where_expert_1_is_below_expert_2():
    bounds = {said: latent.bound(Latent(triplets=10, layers=said)) for said in ("lower/upper", "0-1/2-3", "0-2/2-3")}
    assert bounds == {"lower/upper": None, "0-1/2-3": None, "0-2/2-3": None}
    for said in ("mlp", "lower", "upper", "upper/lower", "2-3/0-1", "upper/lower/mlp"):
        assert latent.bound(Latent(triplets=10, layers=said)) == 0.1


def test_every_rule_composes_experts_that_share_no_layer(folder):
    """Nothing in the rules, nor in what is measured of experts, needs a module that both change. Random experts, whose
    updates are not zero."""
    base = load_base(str(folder))
    random = torch.Generator().manual_seed(0)
    draw = lambda size: torch.randn(size, 2, generator=random)  # noqa: E731
    library = []
    for said in ("lower", "upper"):
        shapes = {n: linear_shape(base.model.get_submodule(n)) for n in target_modules(base.model, said)}
        library.append({name: LowRank(*map(draw, shape)) for name, shape in shapes.items() if shape})
    for rule in GIVEN:
        assert compose(rule, library).keys() == {*library[0], *library[1]}, rule
    assert collisions(base, library).keys() == {"update_ratio"}
    assert collisions(base, [library[0], library[0]])["prototype_cos"] == pytest.approx(1)


def test_the_command_makes_a_row_of_experts_in_different_layers(folder, tmp_path, capsys):
    words = [f"model={folder}", *SMALL, "log_probs=false", "library=2-combination", "second=right", "split=test"]
    done = main(PROTOCOL, [*words, "layers=lower/upper", "composition=sum", f"out={tmp_path}"])
    assert done == 0, capsys.readouterr().err
    (row,) = load_rows(tmp_path, "llm_latent")
    assert (row["settings"]["layers"], row["predicted"]) == ("lower/upper", {})
    model = load_base(str(folder)).model
    found = [load_expert(path, model) for path in (tmp_path / "experts").iterdir()]
    assert sorted(sorted({name.split(".")[2] for name in one}) for one in found) == [["0"], ["1"]]
