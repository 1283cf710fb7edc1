"""Adapters as other libraries know them: PEFT's model, and plain weights."""

import copy
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from lora_reuse.llm.adapters.adapter import Adapter, check_base
from lora_reuse.llm.adapters.modules import quiet_peft, tied
from lora_reuse.llm.adapters.saving import save
from lora_reuse.llm.decoding.models import Base
from lora_reuse.runs.settings import SettingError


def to_peft(base: Base, adapter: Adapter) -> PeftModel:
    """PEFT's model of a copy of the base with the adapter on it. The base stays as it is.

    Args:
        base: the model of the adapter.
        adapter: an adapter, or a composition by a static rule.

    Returns:
        The model, in eval mode, with the adapter as `"default"`. In float32 its logits are those of
        `lora_reuse.answers` to rounding. In half precision PEFT multiplies with the factors in float32.

    Raises:
        SettingError: the adapter is of another base, or the composition has a router ("arrow"), which is no LoRA.

    Examples:
        >>> both = lr.compose([a, b], "sum")
        >>> type(lr.to_peft(base, both)).__name__
        'PeftModelForCausalLM'
        >>> lr.to_peft(base, lr.compose([a, b], "arrow"))
        Traceback (most recent call last):
        ...
        lora_reuse.runs.settings.SettingError: adapter: got arrow of a, b, which weighs ...
    """
    check_base(base, adapter)
    whole = Adapter(dict(adapter.weights()), adapter.card, adapter.layout, biases=adapter.biases)
    with tempfile.TemporaryDirectory() as folder, quiet_peft():
        save(whole, Path(folder) / "adapter")
        return PeftModel.from_pretrained(copy.deepcopy(base.model), f"{folder}/adapter").eval()


def merge_into(base: Base, adapter: Adapter) -> PreTrainedModel:
    """A copy of the base whose weights are W + ΔW, which needs neither PEFT nor this project. The base stays as it is.

    Args:
        base: the model of the adapter.
        adapter: an adapter, or a composition by a static rule.

    Returns:
        The model, in the base's dtype, which rounds W + ΔW to it. `save_pretrained` writes it.

    Raises:
        SettingError: the adapter is of another base, the composition has a router ("arrow"), which no weights can say,
            or it changes the head or the embedding of a base whose head is its embedding, which would change both.

    Examples:
        >>> model = lr.merge_into(base, lr.compose([a, b], "sum"))
        >>> model.save_pretrained("whole")
    """
    check_base(base, adapter)
    if both := tied(base.model, adapter):
        raise SettingError("adapter", f"{adapter.name} of {both}", "an adapter of other modules")
    adapter.experts()  # which refuses biases: a base without any has no place for them
    merged: Any = to_peft(base, adapter)
    return merged.merge_and_unload()
