"""A packed batch says what a padded one does, in every family that can be packed; and a layer's own backward pass is
that of PEFT's."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.fused import fuse, surprise
from lora_reuse.llm.adapters.graphed import Graph, graphed
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.packing import is_packing, packing, spoken
from lora_reuse.llm.decoding.models import load_base
from tests.llm.tiny import FAMILIES

torch.set_num_threads(1)

TEXTS = [([7, 8, 9], [10, 11]), ([12], [13]), ([14, 15, 16, 17, 18, 19], [20, 21, 22]), ([23, 24], [25])]
PACKED = {"qwen2", "llama", "phi", "phi3", "mixtral"}
"""Of the others gemma2 and mistral see a window, and gpt2, opt and gpt_neox have a dropout in their config (the last in
that of a classifier)."""


def adapted(base, dropout=0.0, layers="attention") -> Any:
    """With an adapter whose two factors are random."""
    names = target_modules(base.model, layers)
    conv = isinstance(base.model.get_submodule(names[0]), Conv1D)
    model: Any = get_peft_model(
        base.model, LoraConfig(r=2, lora_alpha=3, lora_dropout=dropout, target_modules=names, fan_in_fan_out=conv)
    )
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    return model.train()


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    return found


def close(found, right):
    assert found.keys() == right.keys()
    for name, gradient in right.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_has_the_answers_logits_and_the_gradients_of_a_padded_one(family, folder_of):
    base = load_base(str(folder_of(family)))
    model = adapted(base)
    if family in ("gpt2", "opt"):
        model.eval()  # without its own dropout
    logits, told = spoken(model, TEXTS)
    assert told.tolist() == [token for _, answer in TEXTS for token in answer]
    cross_entropy(logits, told).backward()
    right = gradients(model)
    with packing(base.model, model):
        assert is_packing(model) == (family in PACKED)
        found, again = spoken(model, TEXTS)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(again, told)
        cross_entropy(found, told).backward()
    close(gradients(model), right)
    assert not is_packing(model)
    torch.testing.assert_close(spoken(model, TEXTS)[0], logits)


def test_a_text_does_not_see_those_beside_it(folder_of):
    base = load_base(str(folder_of("llama")))
    model = adapted(base)
    with packing(base.model, model), torch.no_grad():
        alone = torch.cat([spoken(model, [text])[0] for text in TEXTS])
        torch.testing.assert_close(spoken(model, TEXTS)[0], alone, rtol=1e-4, atol=1e-5)
        other = [([9, 9, 9], [9, 9]), *TEXTS[1:]]
        assert not torch.allclose(spoken(model, other)[0][:2], alone[:2], atol=1e-3)
        torch.testing.assert_close(spoken(model, other)[0][2:], alone[2:], rtol=1e-4, atol=1e-5)


def test_what_drops_out_is_not_packed(folder_of):
    base = load_base(str(folder_of("llama")))
    model = adapted(base, dropout=0.1)
    with packing(base.model, model):
        assert not is_packing(model)


@pytest.mark.parametrize("family", sorted(PACKED))
def test_a_row_of_fixed_shape_has_the_loss_and_the_gradients_of_each_of_its_batches(family, folder_of):
    """What a CUDA graph records; no device records one here."""
    base = load_base(str(folder_of(family)))
    model = adapted(base)
    batches = [TEXTS, TEXTS[:2], TEXTS[2:]]
    with packing(base.model, model):
        graph = Graph(model, batches)
        for batch in (*batches, TEXTS[1:]):
            weights = torch.rand(sum(len(answer) for _, answer in batch))
            logits, told = spoken(model, batch)
            loss = surprise(logits, told, weights)
            loss.backward()
            right = gradients(model)
            assert graph(batch, weights) == pytest.approx(loss.item(), rel=1e-5)
            close(gradients(model), right)
        assert graphed(model, batches) is None  # on a CPU


def test_an_error_leaves_the_attention_as_it_was(folder_of):
    base = load_base(str(folder_of("llama")))
    with pytest.raises(RuntimeError, match="stop"), packing(base.model, base.model):
        raise RuntimeError("stop")
    assert base.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("family", "layers"), [("llama", "mlp"), ("phi", "both"), ("gpt2", "mlp")])
def test_fused_layers_have_the_outputs_and_gradients_of_pefts(family, layers, folder_of):
    base = load_base(str(folder_of(family)))
    model = adapted(base, layers=layers).eval()
    ids = torch.tensor([asked + answer for asked, answer in (TEXTS[0], TEXTS[0][::-1])])
    weigh = torch.randn(2, 5, len(base.tokenizer))
    right = model(input_ids=ids).logits
    (right * weigh).sum().backward()
    expected = gradients(model)
    fuse(model)
    assert any("forward" in vars(module) for module in model.modules()) == (family != "gpt2")
    found = model(input_ids=ids).logits
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    (found * weigh).sum().backward()
    close(gradients(model), expected)


def test_layers_with_dropout_stay_pefts(folder_of):
    model = adapted(load_base(str(folder_of("llama"))), dropout=0.1)
    fuse(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_surprise_is_a_weighted_cross_entropy():
    torch.manual_seed(0)
    logits, told, weights = (
        torch.randn(5, 7, dtype=torch.float64),
        torch.tensor([0, 6, 3, 3, 1]),
        torch.rand(5, dtype=torch.float64),
    )
    mine, theirs = (logits.float().requires_grad_() for _ in range(2))
    loss = surprise(mine, told, weights.float())
    right = (cross_entropy(theirs, told, reduction="none") * weights.float()).sum()
    torch.testing.assert_close(loss, right)
    (3 * loss).backward()
    (3 * right).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
