"""Compositions on a base model that stays where it is: added to the outputs of its modules by forward hooks, several in
one batch.

with Resident(model) as resident:
    resident.use([arrow, uniform, None])
    model.generate(**prompts)  # the first third of the rows gets arrow, the second uniform, the last is the base's
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_reuse.llm.adapters.folders import weight_shape
from lora_reuse.llm.compositions import Composition, Delta, Factored, RoutedDelta
from lora_reuse.runs.settings import SettingError, did_you_mean


class Resident:
    """Holds the hooks. Without them, after the `with` or after `use([None])`, the model is the base, bit by bit.

    With `record`, `gates[k][module]` lists the expert weights of composition k's tokens there, one tensor [rows,
    tokens, experts] a forward pass, on the CPU; padding is in them."""

    def __init__(self, model: nn.Module, *, record: bool = False):
        self.model = model
        self.record = record
        self.gates: list[dict[str, list[Tensor]]] = []
        self._hooks: list[Any] = []
        self._placed: dict[int, tuple[Composition, dict[tuple, tuple[Delta, Factored | None]]]] = {}
        self._rows: list[int] = []

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def use(self, compositions: Sequence[Composition | None]) -> None:
        """From now on a batch's rows are as many equal consecutive groups as there are compositions, and group k gets
        composition k, or the base alone for None. Raises SettingError, with the hooks as they were, for a composition
        of another model.

        Factors move to a module's device and dtype at its first forward pass and stay for as long as `use` is given
        their composition again."""
        if not compositions:
            raise SettingError("compositions", "none", "at least one; None is the base")
        modules = dict(self.model.named_modules())
        for composition in compositions:
            for name, delta in (composition or {}).items():
                _check(name, delta, modules)
        self.remove(keep={id(composition) for composition in compositions})
        self.gates, self._rows = [{} for _ in compositions], []
        for name in dict.fromkeys(name for composition in compositions for name in composition or {}):
            self._hooks.append(modules[name].register_forward_hook(self._hook(name, tuple(compositions))))

    def share(self, rows: Sequence[int]) -> None:
        """From now on composition k gets the next `rows[k]` rows of a batch, which may be none; without numbers equal
        shares, as after `use`."""
        self._rows = list(rows)

    def remove(self, keep: Collection[int] = ()) -> None:
        """Takes the hooks off, and forgets the moved factors."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._placed = {key: placed for key, placed in self._placed.items() if key in keep}

    def _hook(self, name: str, compositions: tuple[Composition | None, ...]) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x, groups = inputs[0], len(compositions)
            rows = self._rows if groups > 1 and self._rows else [x.shape[0] // groups] * groups
            if groups > 1 and (output.ndim < 3 or x.shape[0] != sum(rows)):
                # Without a rows' axis the tokens may come in any order, as those of a mixture's experts do.
                allowed = f"[{sum(self._rows) or f'{groups} n'} rows, tokens, features]"
                raise SettingError("batch", f"{tuple(x.shape)} into {name} for {groups} compositions", allowed)
            x = x.to(output.device)
            parts = list(zip(compositions, x.split(rows), output.split(rows), strict=True))
            if torch.is_grad_enabled():
                return torch.cat(
                    [
                        base if not c else base + self._change(k, name, c, own, base).to(base.dtype)
                        for k, (c, own, base) in enumerate(parts)
                    ]
                )
            for k, (composition, own, base) in enumerate(parts):
                if composition and len(own):
                    self._add(k, name, composition, own, base)
            return output  # changed in place: nobody else holds it

        return add

    def _add(self, k: int, name: str, composition: Composition, x: Tensor, output: Tensor) -> None:
        if name not in composition:
            return
        _, factored = self._place(name, composition, x, output)
        if factored is not None and not self.record and x.dtype == output.dtype:
            # The change is never there by itself.
            output.view(-1, output.shape[-1]).addmm_(factored.inner(x).flatten(0, -2), factored.out.T)
        else:
            output.add_(self._change(k, name, composition, x, output))

    def _change(self, k: int, name: str, composition: Composition, x: Tensor, output: Tensor) -> Tensor:
        if name not in composition:
            return output.new_zeros(())
        delta, _ = self._place(name, composition, x, output)
        if not (self.record and isinstance(delta, RoutedDelta)):
            return delta(x)
        weights = delta.weights(x)
        self.gates[k].setdefault(name, []).append(weights.detach().cpu())
        return delta.mix(x, weights)

    def _place(self, name: str, composition: Composition, x: Tensor, output: Tensor) -> tuple[Delta, Factored | None]:
        """The delta where x is and in its dtype, and again if it is Factored there (asking that each time takes longer
        than a small product)."""
        _, placed = self._placed.setdefault(id(composition), (composition, {}))
        dtype = x.dtype if x.is_floating_point() else output.dtype  # token ids have none that factors could have
        key = (name, x.device, dtype)
        if key not in placed:
            delta = composition[name].to(x.device, dtype)
            placed[key] = delta, delta if isinstance(delta, Factored) and delta.out.dtype == dtype else None
        return placed[key]


def _check(name: str, delta: Delta, modules: dict[str, nn.Module]) -> None:
    if name not in modules:
        raise SettingError("composition", f"module {name}", "modules of the model", did_you_mean(name, modules))
    shape = weight_shape(modules[name])
    if shape is None:
        got, allowed = (
            f"{name}, a {type(modules[name]).__name__}",
            "updates of Linear, Conv1D and plain Embedding modules",
        )
        raise SettingError("composition", got, allowed)
    if shape != delta.shape:
        raise SettingError(
            "composition", f"an update of shape {delta.shape} for {name}", f"shape {shape}, as the model's"
        )
