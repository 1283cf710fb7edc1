"""A value for each module, made when it is asked for: what is too large to be in memory whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

Value = TypeVar("Value", covariant=True)


class Each(Mapping[str, Value], Generic[Value]):
    """`make(name)` for each of the names, in their order. Nothing is kept: whoever goes through it once has one value
    in memory at a time, and whoever asks for a value twice has it made twice (`dict` keeps them). The first is made at
    once, so that a mistake that is in all of them is raised where they are described and not where they are used."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Value]):
        self._names = dict.fromkeys(names)
        self._make = make
        for first in list(self._names)[:1]:
            make(first)

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
