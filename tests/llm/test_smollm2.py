"""Commands on SmolLM2-135M-Instruct, one of each way to its experts and answers, with as little as it takes: what the
pocket model's tests cannot show is that another base serves."""

import copy
import importlib
import json

import pytest
import torch

from lora_reuse.llm.decoding import models
from lora_reuse.llm.decoding.names import SMOLLM2, digest
from lora_reuse.runs.rows import load_rows

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(
    not SMOLLM2.is_file(), reason="make smollm was not run: SmolLM2-135M-Instruct is not here"
)

LITTLE = "model=smollm2 workers=1 triplets=2 steps=1 batch=2 answer_tokens=4 step_tokens=4 log_probs=false"
COMMANDS = {
    "two_hop": f"{LITTLE} dataset=R library=2-combination composition=sum prompting=direct,steps",
    "bridge": f"{LITTLE} bridge_triplets=2 setup=2 composition=arrow prompting=direct",
    "edit": "model=smollm2 workers=1 triplets=2 depth=0 covariance=identity value_steps=1 library=1 prompting=own"
    " answer_tokens=4 log_probs=false",
    "overlap": "model=smollm2 workers=1 triplets=3 steps=1 batch=2 expert=1 state=sum",
    "gsm": "model=smollm2 workers=1 templates=1 steps=1 batch=2 answer_tokens=4 composition=base",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """The first command reads the file, and the others get copies."""
    kept = {}

    def once(read):
        def copied(*where, **how):
            if read not in kept:
                kept[read] = read(*where, **how)
            return copy.deepcopy(kept[read])

        return copied

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_config", "read_tokenizer", "read_weights"):
            patch.setattr(models, name, once(getattr(models, name)))
        yield


def run(name, out):
    """The exit code of a protocol's command; a second time its rows are there."""
    protocol = importlib.import_module(f"lora_reuse.llm.{name}")
    return protocol.main(protocol.PROTOCOL, [*COMMANDS[name].split(), f"out={out}"])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_protocol_makes_rows_that_say_what_the_weights_are(name, out, capsys):
    assert run(name, out) == 0, capsys.readouterr().err
    for row in load_rows(out, f"llm_{name}"):
        assert row["settings"]["model"] == "smollm2"
        assert row["provenance"]["base"] == "SmolLM2-135M-Instruct, Q4_1, dequantised"
        assert row["provenance"]["base_digest"] == digest(SMOLLM2)


def test_experts_are_composed_and_forecast_under_the_name_they_were_trained_on(out, tmp_path, capsys):
    from lora_reuse.llm import compose
    from lora_reuse.llm.forecast.__main__ import main as forecast

    assert run("two_hop", out) == 0
    cards = {path: json.loads((path / "expert.json").read_text()) for path in (out / "experts").iterdir()}
    two_hop = [
        path
        for path, card in cards.items()
        if card["own"] in (["R1"], ["R2"]) and card["training"]["layers"] == "mlp" and not card["bridge"]
    ]
    adapters = ",".join(map(str, two_hop[:2]))
    assert compose.main([f"library={adapters}", "composition=ties", f"out={tmp_path / 'composed'}"]) == 0, (
        capsys.readouterr().err
    )
    assert (
        json.loads((tmp_path / "composed" / "adapter_config.json").read_text())["base_model_name_or_path"] == "smollm2"
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"set": name, "prompt": f"Where does {name} live?"}) + "\n" for name in ("a", "b", "hoped"))
    )
    words = [
        "model=smollm2",
        f"library={adapters}",
        "composition=sum",
        f"prompts={prompts}",
        "answer_tokens=4",
        "chat=off",
    ]
    assert forecast(words) == 0, capsys.readouterr().err
