"""A module's update, from the adapter's configuration, its tensors and, where it needs it, the base's weight; first
whether these fit together."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lora_reuse.llm.adapters.biased import constant
from lora_reuse.llm.adapters.config import CONFIG, rank_of, scaling, sits_on
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.products import KINDS
from lora_reuse.llm.adapters.tensors import Tensors
from lora_reuse.llm.adapters.whole import check_tokens, dora, of_module, of_tokens, tokens_of
from lora_reuse.runs.settings import SettingError


def check(name: str, found: Tensors, config: Mapping[str, Any], module: nn.Module, need: tuple[int, int]) -> None:
    """Raises SettingError where what the adapter says and stores of a module, whose ΔW has the shape `need`, do not fit
    together."""
    folder, factors = found.folder, found.shapes_of(name)
    if sum(name in names for names in (found.factors, found.whole, found.tokens)) > 1:
        raise SettingError("expert", f"{name} twice in {folder}", "one change of each module")
    if name in found.whole:
        shape = found.shapes[found.whole[name]]
        if (shape if isinstance(module, nn.Linear) else shape[::-1]) != need:
            got = f"{name} {shape} in {folder}"
            mend = "if tokens were added, resize the base's embeddings, save it, and name that as the model"
            raise SettingError("expert", got, f"a weight of shape {need}, as the model's", mend)
        return
    if name in found.tokens:
        rows, head = found.shapes[found.tokens[name]], isinstance(module, nn.Linear)
        check_tokens(rows, tokens_of(config, name), name, need, head, folder)
        return
    kind = KINDS.get(config["peft_type"])
    wanted = kind.tensors if kind else (frozenset(("lambda_b", "lambda_d")),)
    beside = {"magnitude_vector"} if config.get("use_dora") else {"bias"} if config.get("lora_bias") else set()
    wanted = tuple(names | beside for names in wanted)
    if frozenset(factors) not in wanted or isinstance(module, nn.Embedding) != (name in found.embeddings):
        names = " and ".join(sorted(factors))
        sets = ", or ".join(" and ".join(sorted(names)) for names in wanted)
        allowed = f"{sets} of every module, those of embeddings by PEFT's names for them"
        raise SettingError("expert", f"only {names} of {name} in {folder}", allowed)
    if not sits_on(config, name):
        got = f"tensors of {name} in {folder}, whose {CONFIG} does not name that module"
        raise SettingError(
            "expert", got, "tensors of the modules that it names", "one of the two is not this adapter's"
        )
    if kind is None:
        _check_vera(name, found, need)
        return
    said = " and ".join(f"{'lora_' if len(f) == 1 else ''}{f} {factors[f]}" for f in sorted(factors, reverse=True))
    outputs = [factors.pop(name) for name in ("magnitude_vector", "bias") if name in factors]
    sizes = kind.sizes(factors) if all(len(shape) == 2 for shape in factors.values()) else None
    if sizes is None or sizes.shape != need or set(outputs) - {(need[0],)}:
        got = f"{folder} with {said} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")
    rank = factors["A"][0] if config["peft_type"] == "ADALORA" else rank_of(config, name)
    if set(sizes.ranks) - {rank}:
        got = f"{folder} with ranks {' and '.join(map(str, sorted(sizes.ranks)))} of {name}"
        raise SettingError("expert", got, f"rank {rank}, as its {CONFIG} says")


def _check_vera(name: str, found: Tensors, need: tuple[int, int]) -> None:
    if set(found.shared) != {"A", "B"}:
        mend = "with save_projection=True PEFT writes them; from a random seed they differ between machines"
        raise SettingError(
            "expert", f"no vera_A and vera_B in {found.folder}", "the projections with the adapter", mend
        )
    (outputs, inputs), factors = need, found.shapes_of(name)
    A, B = (found.shapes[found.shared[factor]] for factor in ("A", "B"))
    b, d = factors["lambda_b"], factors["lambda_d"]
    if b != (outputs,) or A[1] < inputs or B[0] < outputs or not (A[0],) == d == B[1:]:
        got = f"{found.folder} for {name}"
        raise SettingError("expert", got, f"ΔW of shape {need}, as the model's", "it was trained on another base model")


def update_of(name: str, found: Tensors, config: Mapping[str, Any], need: tuple[int, int], model: nn.Module) -> LowRank:
    """A module's update, in float32 on the CPU."""
    if name in found.whole:
        return of_module(found.read({name: found.whole[name]})[name], name, model, found.folder)
    if name in found.tokens:
        rows = found.read({name: found.tokens[name]})[name]
        return of_tokens(rows, tokens_of(config, name), name, model, found.folder)
    factors = found.read({factor: stored for factor, stored in found.factors[name].items() if factor != "bias"})
    magnitude = factors.pop("magnitude_vector", None)
    update = _product(name, found, config, factors, need)
    return update if magnitude is None else dora(update, magnitude, name, model, found.folder)


def _product(
    name: str, found: Tensors, config: Mapping[str, Any], factors: Mapping[str, Tensor], need: tuple[int, int]
) -> LowRank:
    """s times the product that the kind makes; of VeRA diag(b) B diag(d) A, of whose shared B and A a module takes the
    first rows and columns."""
    if config["peft_type"] == "VERA":
        shared, (outputs, inputs) = found.read(found.shared), need
        out = factors["lambda_b"][:, None] * shared["B"][:outputs] * factors["lambda_d"]
        return LowRank(out, shared["A"][:, :inputs].T.contiguous())
    out, into = KINDS[config["peft_type"]].update(factors)
    return LowRank(out * scaling(config, name), into.contiguous())


def bias_of(name: str, found: Tensors, config: Mapping[str, Any]) -> LowRank:
    """s b, the bias of a module's B as the ΔW of an input that is always 1."""
    (bias,) = found.read({"bias": found.factors[name]["bias"]}).values()
    return constant(bias * scaling(config, name))
