"""Types with shapes, checked where functions are called: at each of a function's first hundred calls in a process and
at one in a hundred of the others. A check costs about 60 µs, and closed forms call small functions a million times. A
function within a function would be compiled for it at each call of the outer one, and is not checked."""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jaxtyping

EVERY = 100
_checked = jaxtyping.jaxtyped


def jaxtyped(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """What `jaxtyping`'s import hook decorates every function and class with."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(function):
        return _checked(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        return function
    checked, calls = _checked(function, typechecker=typechecker), itertools.count()

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        return (checked if call < EVERY or call % EVERY == 0 else function)(*args, **kwargs)

    return called
