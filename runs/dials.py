"""Dials that a function declares in its signature, and the declarations of a package read without importing it.

`def ties(library, *, density: Density = 0.2)` has one dial. Its annotation says what it may be and what it means:
`Density = Annotated[float, Number(1e-6, 1), "share of the weights that is kept"]`, or
`Annotated[Literal["global", "module"], "what the share is taken of"]`. This is the idea of mergekit's
`merge_methods/easy_define.py`."""

import ast
import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from lora_reuse.runs.settings import Choice, Kind, SettingError, did_you_mean, of_kind, setting


@dataclass(frozen=True)
class Dial:
    """A keyword of a function: what it may be, its default, and what it means."""

    kind: Kind
    default: Any
    doc: str

    def check(self, name: str, value: Any) -> None:
        """Raises SettingError for a value that is neither the default nor what the kind makes of its text, such as a
        text where a number is meant; of a mapping, each value is looked at."""
        for one in value.values() if isinstance(value, Mapping) else [value]:
            if one is self.default:
                continue
            made, given = of_kind(name, self.kind, one), tuple(one) if isinstance(one, list) else one
            if made != given or (isinstance(made, int) and isinstance(given, float)):
                raise SettingError(name, f"{one!r}, a {type(one).__name__}", f"{made!r}, a {type(made).__name__}")


def dials(function: Callable[..., Any]) -> dict[str, Dial]:
    """The dials of a function: its keyword-only arguments. Raises TypeError for one whose annotation does not say what
    it may be and what it means, or that has no default."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        base, *notes = get_args(parameter.annotation) or [None]
        kinds = [note for note in notes if isinstance(note, Kind)]
        if get_origin(base) is Literal:
            kinds = [Choice(*get_args(base))]
        docs = [note for note in notes if isinstance(note, str)]
        if len(kinds) != 1 or len(docs) != 1 or parameter.default is parameter.empty:
            where = f"{function.__module__}.{function.__qualname__}"
            raise TypeError(f'{where}: {name} should be {name}: Annotated[type, Kind(...), "what it means"] = default')
        found[name] = Dial(kinds[0], parameter.default, docs[0])
    return found


def refuse_name(name: str, known: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Raises SettingError for a rule that has the name of a known one of another module. (A cell of a notebook is run
    again.)"""
    if known.__module__ != new.__module__:
        got = f"a rule of {new.__module__} with the name of one of {known.__module__}"
        raise SettingError(name, got, "a name of its own", f"the one that is there is asked by name, as rule={name}")


def refuse_names(owner: str, known: Iterable[str], taken: Container[str]) -> None:
    """Raises SettingError for a dial that has the name of a setting: in a row the two would be one."""
    for name in known:
        if name in taken:
            raise SettingError(name, f"the name of a setting for a dial of {owner}", "a dial of another name")


def check(owner: str, known: Mapping[str, Dial], given: Mapping[str, Any]) -> None:
    """Raises SettingError for a dial that the owner (a rule, by its name) does not read, and for a value out of
    range."""
    for name, value in given.items():
        if name not in known:
            mend = did_you_mean(name, known) or f"{owner} does not read it"
            raise SettingError(name, value, ", ".join(known) or f"no dial with {owner}", mend)
        known[name].check(name, value)


class Declared(NamedTuple):
    """What a decorated function says of itself: its dials, the keywords of its decorator, its docstring; and the line
    of the package where it was read."""

    dials: dict[str, Dial]
    promises: dict[str, Any]
    doc: str
    place: str = ""


Every = dict[str, tuple[Dial, list[str]]]
"""Dials by name, each with the rules that have it."""


@functools.cache
def declared(package: str, decorator: str) -> dict[str, Declared]:
    """The functions under `@decorator(...)` in the modules of a package, by name (a trailing underscore is dropped), in
    the order of the modules' names.

    Nothing of the package is imported: each module is reduced to the signatures of these functions, and to the imports
    and assignments that the signatures need. Raises SettingError for a module that cannot be read so, and for two
    functions of one name: a module may be anybody's."""
    parent, _, last = package.rpartition(".")
    folder = Path(next(iter(importlib.import_module(parent).__path__))) / last
    found: dict[str, Declared] = {}

    def enrol(*bare: Any, **promises: Any) -> Callable[[Callable[..., Any]], None]:
        if bare:
            raise TypeError(f"@{decorator} stands without its promises, as in @{decorator}(...)")

        def record(function: Callable[..., Any]) -> None:
            name, code = function.__name__.rstrip("_"), function.__code__
            place = f"{last}/{Path(code.co_filename).name}, line {code.co_firstlineno}"
            if name in found:
                raise SettingError(name, f"two of this name ({found[name].place}; {place})", "names of their own")
            found[name] = Declared(dials(function), promises, function.__doc__ or "", place)

        return record

    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            with blamed(last, path):
                _run(path, package, set(), {decorator: enrol})
    return found


@contextlib.contextmanager
def blamed(setting: str, path: Path, allowed: str = "a file that runs") -> Iterator[None]:
    """Raises SettingError for what a person's file raises in this context, whatever it is, with the line."""
    try:
        yield
    except SettingError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path.name}, line {lines[-1]}" if lines else path.name
        mend = "what it imports has to be installed" if isinstance(error, ModuleNotFoundError) else ""
        got = f"{where} ({type(error).__name__}: {error})"
        raise SettingError(setting, got, allowed, mend) from error


def import_all(package: str, folder: str) -> None:
    """Imports the modules of a package. Raises SettingError for one that raises anything."""
    for module in pkgutil.iter_modules([folder]):
        with blamed(package.rpartition(".")[2], Path(folder) / f"{module.name}.py"):
            importlib.import_module(f"{package}.{module.name}")


def every(*declarations: Mapping[str, Declared]) -> Every:
    """All dials of these rules. Raises SettingError for a name that means two things."""
    found: Every = {}
    owners: dict[str, str] = {}
    for rule, it in (item for one in declarations for item in one.items()):
        for name, dial in it.dials.items():
            owner = f"{rule} ({it.place})"
            first = owners.setdefault(name, owner)
            same, rules = found.setdefault(name, (dial, []))
            if (same.kind.allowed, same.default, same.doc) != (dial.kind.allowed, dial.default, dial.doc):
                allowed = "one annotation and one default for all dials of a name"
                raise SettingError(name, f"one of {first} and another of {owner}", allowed, "call yours otherwise")
            rules.append(rule)
    return found


def axis(dial: Dial, rules: Sequence[str], omitted: bool = False) -> Any:
    """The setting of a dial, read by these rules alone."""
    return setting(dial.default, dial.kind, dial.doc, omitted=omitted, rules=rules)


def axes(name: str, doc: str, known: Every, left_out: Container[str] = (), omitted: Container[str] = ()) -> Any:
    """A dataclass of the dials as settings, but those left out. A row does not name one of `omitted` at its default."""
    fields = [(dial, Any, axis(*known[dial], dial in omitted)) for dial in known if dial not in left_out]
    return dataclasses.make_dataclass(name, fields, frozen=True, namespace={"__doc__": doc})


def _run(path: Path, package: str, wanted: set[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the wanted names at the top level of a module. The functions that a name of `given` decorates are
    run too, without their bodies. Other modules of the package are read in the same way."""
    wanted = set(wanted)
    kept: list[ast.stmt] = []
    values: dict[str, Any] = {"__name__": f"{package}.{path.stem}", **given}
    for node in reversed(ast.parse(path.read_text(encoding="utf-8"), str(path)).body):
        if isinstance(node, ast.FunctionDef) and (stub := _stub(node, given)):
            kept.append(stub)
            wanted |= _names([stub])
        elif isinstance(node, ast.Assign) and wanted & _names(node.targets):
            kept.append(node)
            wanted |= _names([node.value])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            taken = [name for name in node.names if (name.asname or name.name) in wanted - given.keys()]
            module = getattr(node, "module", None) or ""
            if taken and module.startswith(package):
                other = path.with_name(f"{module.removeprefix(package).lstrip('.') or '__init__'}.py")
                inner = _run(other, package, {name.name for name in taken}, {})
                values |= {name.asname or name.name: inner[name.name] for name in taken}
            elif taken:
                node.names = taken
                kept.append(node)
    module = ast.fix_missing_locations(ast.Module(kept[::-1], []))
    exec(compile(module, str(path), "exec"), values)
    return values


def _stub(node: ast.FunctionDef, decorators: Mapping[str, Any]) -> ast.FunctionDef | None:
    """The function with its keyword-only arguments and its docstring alone, under the decorator with its keywords
    alone; None where none of the decorators is over it."""
    over = [d for d in node.decorator_list if _names([d.func if isinstance(d, ast.Call) else d]) & decorators.keys()]
    if not over:
        return None
    stub = copy.deepcopy(node)
    only = ast.Call(over[0].func, [], over[0].keywords) if isinstance(over[0], ast.Call) else over[0]
    stub.decorator_list, stub.returns, stub.body = [only], None, stub.body[:1]
    if not ast.get_docstring(node):
        stub.body = [ast.Pass()]
    stub.args = ast.arguments([], [], None, stub.args.kwonlyargs, stub.args.kw_defaults, None, [])
    return stub


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
