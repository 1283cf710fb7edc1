"""A composition from files to a file holds one module at a time, and is the one that is made in memory."""

import contextlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_reuse.llm.adapters.adapter import Adapter, Card, read_adapter
from lora_reuse.llm.adapters.composing import composed
from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.folders import Layout, load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.saving import load_composition, save
from lora_reuse.llm.adapters.tensors import Tensors
from lora_reuse.llm.adapters.writing import tensor_file
from lora_reuse.llm.compositions import RULES, compose, streamed
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.compositions.sparse import smallest_kept, smallest_of
from lora_reuse.runs.settings import SettingError
from tests.llm.test_adapters import experts, folders, qwen


def opened(root, count=2) -> list[Adapter]:
    """Adapters of rank 3 that are read when they are asked for."""
    return [read_adapter(path, qwen(), "tiny", str, True) for path in folders(experts(count), root)]


@pytest.mark.parametrize("rule", RULES)
def test_what_is_streamed_is_what_is_made_in_memory(rule, tmp_path):
    save(composed(opened(tmp_path), rule, {}, "test"), tmp_path / "out")
    found, wanted = load_composition(tmp_path / "out", qwen()), compose(rule, experts(2))
    assert found.keys() == wanted.keys()
    for name, update in wanted.items():
        ours = found[name]
        if isinstance(update, LowRank):
            assert isinstance(ours, LowRank)
            assert all(torch.equal(*pair) for pair in zip(ours, update, strict=True))
        else:
            assert isinstance(ours, Routed)
            assert isinstance(update, Routed)
            assert all(torch.equal(getattr(ours, f), getattr(update, f)) for f in ("out", "into", "prototypes"))


@pytest.mark.parametrize("rule", ["sum", "linear", "knots", "random", "arrow", "genknowsub"])
def test_a_module_is_written_before_the_next_is_read(rule, tmp_path, monkeypatch):
    """After the first, which is made once more to begin with, so that a mistake is known before anything is written."""
    adapters, events = opened(tmp_path), []
    read = Tensors.read

    def reading(self, names):
        events.append(("read", next(iter(names.values())).rpartition(".lora")[0]))
        return read(self, names)

    @contextlib.contextmanager
    def writing(*given):
        with tensor_file(*given) as put:

            def noted(name, tensor):
                events.append(("put", name))
                put(name, tensor)

            yield noted

    for module in ("writing", "saving"):
        monkeypatch.setattr(f"lora_reuse.llm.adapters.{module}.tensor_file", writing)
    monkeypatch.setattr(Tensors, "read", reading)
    save(composed(adapters, rule, {}, "test"), tmp_path / "out")
    put = [i for i, (what, _) in enumerate(events) if what == "put"]
    begun = put[0]
    steps = [what for what, _ in events[begun : put[-1] + 1]]  # the checks of types look at the first module once more
    runs = [what for i, what in enumerate(steps) if i == 0 or steps[i - 1] != what]
    assert runs == ["put", "read"] * (len(adapters[0]) - 1) + ["put"]
    assert len({name for what, name in events[:begun] if what == "read"}) == 1


def test_the_global_cut_is_the_order_statistic():
    """To the bit, with ties, zeros and numbers below the smallest normal one among the weights."""
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731
    expert = {
        "a": LowRank(draw(50, 3), draw(40, 3)),
        "b": LowRank(torch.full((20, 3), 0.5), draw(7, 3) * 1e-40),
        "c": LowRank(torch.zeros(9, 3), draw(30, 3).mul(4).round()),
    }
    sizes = torch.cat([factor.abs().flatten() for update in expert.values() for factor in update])
    for density in (1e-6, 0.01, 0.2, 0.37, 0.5, 0.9, 0.999, 1):
        assert smallest_kept(expert, density) == smallest_of(sizes, density)


def test_an_update_is_made_when_it_is_asked_for():
    made = []
    each = Each(["a", "b"], lambda name: made.append(name) or name)
    assert made == ["a"]
    assert dict(each) == {"a": "a", "b": "b"}
    assert made == ["a", "a", "b"]
    assert "c" not in each
    with pytest.raises(KeyError):
        each["c"]


def test_a_mistake_of_the_rule_is_raised_before_anything_is_used():
    with pytest.raises(SettingError, match="weights: got 1"):
        streamed("cat", experts(2), weights=(1.0,))


def test_what_goes_wrong_on_the_way_leaves_nothing_behind(tmp_path):
    adapters = opened(tmp_path)
    last = list(adapters[0])[-1]
    path = tmp_path / "expert_1" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"base_model.model.{last}.lora_B.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(SettingError, match=rf"NaN or infinity in base_model\.model\.{last}\.lora_B"):
        save(composed(adapters, "sum", {}, "test"), tmp_path / "out")
    with pytest.raises(SettingError, match="NaN or infinity"):
        load_expert(tmp_path / "expert_1", qwen())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert_0", "expert_1"]


def test_a_router_where_a_rule_promised_none_is_refused(tmp_path):
    routed = compose("arrow", experts(2))
    with pytest.raises(SettingError, match="got a Routed in"):
        save(Adapter(routed, Card("tiny", "mine"), Layout(), static=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_tensors_is_one_that_the_library_reads(tmp_path):
    """Of every dtype, in any order, each at a multiple of its width."""
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "half": torch.tensor([[1.5, -2.0], [0.0, 3.0]], dtype=torch.bfloat16),
        "long": torch.tensor(7),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "none": torch.zeros(0, 4),
        "named ΔW": torch.tensor([True]),
    }
    with tensor_file(tmp_path / "x", {"format": "pt"}) as put:
        for name, tensor in tensors.items():
            put(name, tensor)
    found = load_file(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    raw = (tmp_path / "x").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    widths = {"U8": 1, "BOOL": 1, "BF16": 2, "F32": 4, "I64": 8}
    assert all(it["data_offsets"][0] % widths[it["dtype"]] == 0 for name, it in header.items() if name[0] != "_")


def test_a_dtype_without_a_name_is_refused_and_no_file_is_left(tmp_path):
    with pytest.raises(TypeError, match=r"x of torch\.complex64"), tensor_file(tmp_path / "x") as put:
        put("x", torch.zeros(1, dtype=torch.complex64))
    assert list(tmp_path.iterdir()) == []
