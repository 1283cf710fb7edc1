"""An adapter cut to a rank, against the singular values of the dense ΔW."""

import json

import pytest
import torch
from peft import PeftModel

from lora_reuse.llm.adapters.adapter import Adapter, Card
from lora_reuse.llm.adapters.compressing import compress, compressed
from lora_reuse.llm.adapters.folders import Layout, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.lowrank import whole as whole_matrix
from lora_reuse.llm.adapters.saving import save
from lora_reuse.llm.compose import main
from lora_reuse.llm.compositions import compose
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import IDS, experts, folders, qwen, with_composition

torch.set_num_threads(1)


def summed() -> Adapter:
    """Two experts of rank 3, and a module of rank 1."""
    one, other = experts(2)
    name = list(one)[-1]
    narrow = [expert | {name: LowRank(expert[name].out[:, :0], expert[name].into[:, :0])} for expert in (one, other)]
    narrow[0][name] = LowRank(one[name].out[:, :1], one[name].into[:, :1])
    return Adapter(compose("sum", narrow), Card("tiny", "sum", experts={"a": "", "b": ""}), Layout())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_cut_is_the_nearest_of_its_rank_and_its_error_is_said(rank):
    whole = summed()
    cut, loss = compressed(whole, rank)
    lost, all_of_it = 0.0, 0.0
    for name, update in cut.items():
        dense = whole.experts()[name].dense().double()
        assert isinstance(update, LowRank)
        assert update.rank == min(rank, whole.experts()[name].rank)
        found = torch.linalg.norm(dense - update.dense().double())
        nearest = torch.linalg.svdvals(dense)[rank:].square().sum().sqrt()
        torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-5)
        assert loss.of(name) == pytest.approx(float(nearest / torch.linalg.norm(dense)), rel=1e-5, abs=1e-6)
        lost, all_of_it = lost + float(nearest**2), all_of_it + float(torch.linalg.norm(dense) ** 2)
    assert loss.whole() == pytest.approx((lost / all_of_it) ** 0.5, rel=1e-5)
    assert loss.of(loss.most()) == max(map(loss.of, cut))
    assert loss.of(list(whole)[-1]) == 0


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_a_whole_matrix_is_cut_without_all_of_its_singular_vectors(rank, monkeypatch):
    """Of a module that is stored whole, or a DoRA, of which few directions stand out."""
    random = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(size, generator=random)  # noqa: E731
    dense = draw(120, 3) @ draw(3, 100) + 0.1 * draw(120, 100)
    monkeypatch.setattr(LowRank, "core_svd", None)
    cut, loss = compressed(Adapter({"a": whole_matrix(dense)}, Card("tiny", ""), Layout()), rank)
    nearest = torch.linalg.svdvals(dense.double())[rank:].square().sum().sqrt()
    found = torch.linalg.norm(dense.double() - cut.experts()["a"].dense().double())
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-5)
    assert loss.of("a") == pytest.approx(float(nearest / torch.linalg.norm(dense)), rel=1e-5)


def test_a_module_of_no_higher_rank_stays_as_it_is():
    whole = summed()
    name = list(whole)[-1]
    assert compress(whole, 1)[name] is whole[name]
    assert all(cut is whole[module] for module, cut in compress(whole, 6).items())


def test_an_adapter_of_zeros_is_off_by_nothing():
    zeros = {"a": LowRank(torch.zeros(5, 3), torch.zeros(4, 3))}
    cut, loss = compressed(Adapter(zeros, Card("tiny", ""), Layout()), 2)
    assert loss.of("a") == loss.whole() == 0
    assert not cut.experts()["a"].dense().any()


def test_the_folder_holds_no_higher_rank_and_says_the_error(tmp_path):
    """What vLLM compares with max_lora_rank is r and the ranks of the pattern."""
    cut = compress(summed(), 2)
    save(cut, tmp_path / "cut")
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert max(config["r"], *config["rank_pattern"].values()) == 2
    theirs = PeftModel.from_pretrained(qwen(), str(tmp_path / "cut"))(IDS).logits
    torch.testing.assert_close(with_composition(qwen(), cut), theirs, rtol=1e-4, atol=1e-4)
    text = (tmp_path / "cut" / "README.md").read_text()
    assert "max_rank=2." in text
    assert text.endswith(cut.card.note())
    assert "The cut is off by 0." in text
    assert text.count("| model.layers.") == len(cut)
    save(cut, tmp_path / "cut")  # again, as a cell of a notebook


def test_the_command_cuts_and_says_the_error(tmp_path, capsys):
    qwen().save_pretrained(tmp_path / "base")
    library = ",".join(folders(experts(2), tmp_path))
    words = [f"library={library}", f"model={tmp_path / 'base'}", "another_model=true", "composition=sum"]
    out = f"out={tmp_path / 'out'}"
    assert main([*words, out, "max_rank=4"]) == 0
    printed = capsys.readouterr().out
    assert "a PEFT adapter of rank 4 in" in printed
    cut, loss = compressed(Adapter(compose("sum", experts(2)), Card("tiny", "sum"), Layout()), 4)
    for name, update in load_expert(tmp_path / "out", qwen()).items():
        torch.testing.assert_close(update.dense(), cut.experts()[name].dense(), rtol=1e-5, atol=1e-5)
    most = loss.most()
    assert f"the cut is off by {loss.whole():.2g} of ‖ΔW‖, by {loss.of(most):.2g} in {most}" in printed
    assert main([*words, out, "max_lora_rank=4"]) == 2
    assert "max_rank" in capsys.readouterr().err
    assert main([*words, out, "max_rank=4"]) == 0
    assert "already" in capsys.readouterr().out
    for other in (["max_rank=3"], []):
        assert main([*words, out, *other]) == 2
        assert "a new or empty folder" in capsys.readouterr().err


def test_what_cannot_be_cut_is_refused(tmp_path, capsys):
    for rank in (0, -1):
        with pytest.raises(SettingError, match=f"max_rank: got {rank}; allowed: a whole number from 1"):
            compress(summed(), rank)
    routed = Adapter(compose("arrow", experts(2)), Card("tiny", "arrow"), Layout())
    with pytest.raises(SettingError, match="which weighs its adapters anew"):
        compress(routed, 2)
    assert main(["library=a,b", "composition=arrow", f"out={tmp_path / 'out'}", "max_rank=2"]) == 2
    assert "max_rank: got 2; allowed: a rule that gives one ΔW" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
