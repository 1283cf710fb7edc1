"""Whether two names are of one base model: a path and a hub name, the copies that are known by other names, and the
quantised copies that adapters are trained on."""

import re

from lora_reuse.llm.decoding.names import place_of

_QUANTISED = re.compile(
    r"""[-_.](?:(?:unsloth-)?bnb-(?:4|8)bit | (?:4|8)bit(?:-\w+)? | gptq(?:-int[48]|-\w+)? | awq(?:-int4)? | gguf
    | fp8(?:-dynamic)? | int[48] | i?q[2-8](?:_\w+)? | f16 | bf16)$""",
    re.VERBOSE | re.IGNORECASE,
)
_OWNERS = re.compile(r"^(?:meta-)?llama", re.IGNORECASE)
"""Meta-Llama-3-8B and llama-3-8b are one model."""


def same_base(one: str, other: str) -> bool:
    """Whether the two names, of folders, files or hub repositories, are of one model: by the last part, without what
    says how the weights are stored.

    >>> same_base("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B")
    True
    >>> same_base("models/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B")
    False
    """
    return _known(one) == _known(other)


def _known(name: str) -> str:
    place = place_of(name)
    if place.parent.name == "snapshots":  # of the hub's cache: models--OWNER--NAME/snapshots/COMMIT
        place = place.with_name(place.parent.parent.name.rpartition("--")[2])
    last = re.sub(r"\.gguf$", "", place.name, flags=re.IGNORECASE)
    while (shorter := _QUANTISED.sub("", last)) != last:
        last = shorter
    return _OWNERS.sub("llama", last.lower())
