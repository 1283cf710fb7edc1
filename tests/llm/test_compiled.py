"""Experts trained with compiled layers are those of the same steps one operation at a time, but for rounding; where
nothing can be compiled, one line says so. (The command runs in a process of its own: torch.compile does not read
functions whose types are checked.) What the C++ computes is torch's; `python -m llm.benchmark` runs it."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from lora_reuse.llm import two_hop
from lora_reuse.llm.decoding import widened
from lora_reuse.llm.decoding.compiled import compiled_layers, refuse_compiling
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.training import close

torch.set_num_threads(1)
LITTLE = "triplets=2 steps=5 batch=2 rank=2 dropout=0 answer_tokens=2 workers=1 log_probs=false dataset=R"
WORDS = f"{LITTLE} library=oracle prompting=direct".split()
ROOT = Path(__file__).parents[2]
TRACED = """
import sys, torch
real = torch.compile
torch._dynamo.config.recompile_limit = 1  # as if there had been many graphs before
torch.compile = lambda function, options, **how: real(function, backend="aot_eager", **how)
from llm import two_hop
from llm.protocols.protocol import main
code = main(two_hop.PROTOCOL, sys.argv[1:])
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"], file=sys.stderr)
sys.exit(code)
"""
"""The command with graphs that torch traces and does not translate to C++, which takes it a minute."""


def test_an_expert_is_that_of_plain_training(folder, tmp_path):
    assert main(two_hop.PROTOCOL, [f"model={folder}", *WORDS, f"out={tmp_path / 'plain'}"]) == 0
    words = [f"model={folder}", *WORDS, "compile=true", f"out={tmp_path / 'compiled'}"]
    done = subprocess.run([sys.executable, "-c", TRACED, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-2:] == ["graphs", "3"]  # of the first layer, of those above, and of the loss
    plain, found = (next((tmp_path / name / "experts").iterdir()) for name in ("plain", "compiled"))
    close(found, plain)
    rows, plain_rows = (load_rows(tmp_path / name) for name in ("compiled", "plain"))
    assert [row["hash"] for row in rows] == [row["hash"] for row in plain_rows]
    assert all(row["provenance"]["compiled"] is True for row in rows)
    assert not any("compiled" in row["provenance"] for row in plain_rows)


def test_without_a_compiler_one_line_says_so(folder):
    model = load_base(str(folder)).model
    with (
        pytest.raises(SettingError, match=r"compile: got true, and torch compiles nothing here \(InvalidCxxCompiler: "),
        compiled_layers(model),
    ):
        raise InductorError(InvalidCxxCompiler(), inspect.currentframe())
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_is_not_compiled_is_refused(folder, monkeypatch):
    base = load_base(str(folder), compile=True)
    assert base.compiled
    with pytest.raises(SettingError, match="compile: got true on cuda; allowed: true on a CPU"):
        refuse_compiling(base.model, "cuda")
    with pytest.raises(SettingError, match="compile: got true for Linear, which names no layers"):
        refuse_compiling(nn.Linear(2, 2), "cpu")  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(widened.MULTIPLIES, torch.bfloat16, lambda: False)
    with pytest.raises(SettingError, match="compile: got true in bfloat16, which this processor does not multiply in"):
        load_base(str(folder), "bfloat16", compile=True)
