"""Recipes: commands with their settings as YAML, and back.

    - compose:
        library: [experts/a, experts/b]
        composition: ties
        density: 0.3
        out: merged
    - forecast:
        library: [experts/a, experts/b]
        composition: ties
        prompts: prompts.jsonl

A step is a command with its settings; a list is the command line's comma list. A value is read as the text that stands
in the file, and the setting says what it may be. So YAML's own guesses, of which readers of YAML 1.1 and 1.2 make
different ones, decide nothing: `chat: off` is the word off, `rate: 1e-3` a number, `weights: 1:2` two numbers. Anchors
(`&`, `*`) say a value once for several steps; tags (`!`) are refused."""

import contextlib
import io
import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lora_reuse.__main__ import commands, start
from lora_reuse.runs.command import Begun, looking
from lora_reuse.runs.settings import SettingError, did_you_mean

RUN = "run"
"""The command that runs recipes, which is itself no step of one."""
_STR, _SEQ, _MAP = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_NULL = ("~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Step:
    """A command and its `key=value` words; of a recipe with the file and line of the step and of each key."""

    command: str
    words: Sequence[str]
    place: str = ""
    places: Mapping[str, str] = field(default_factory=dict)

    def look(self, files: bool = True) -> str:
        """Runs the command up to where its work begins, and returns the folder or file that it would write ("" for
        none). With `files=False` it looks at its settings alone, and at nothing on disk that they name.

        Raises SettingError as the command does, with the line of the setting that is wrong."""
        words = sys.argv[1:]
        where = [self.place] if self.place else []
        try:
            with (
                looking(files),
                contextlib.redirect_stdout(io.StringIO()),
                warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # of runpy: it was looked at before
            ):
                start(self.command, self.words)
        except Begun as begun:
            return begun.out
        except SettingError as error:
            name = str(error).partition(":")[0]
            raise error.at(*([self.places[name]] if name in self.places else where), self.command) from None
        except SystemExit:  # a command that says its help when it is given nothing
            nothing = SettingError("settings", "none", f"those that lora-reuse {self.command} --help lists")
            raise nothing.at(*where, self.command) from None
        finally:
            sys.argv[1:] = words
        raise RuntimeError(f"{self.command} ended before its work began")


def read(path: Path) -> list[Step]:
    """The steps of a recipe, in order: those of a list, or a single one. Raises SettingError, with the line, for a file
    that is no YAML and for what is no step; the settings themselves are looked at by `Step.look`."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or "not UTF-8"
        raise SettingError("recipe", f"{path} ({why})", "a YAML file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingError(f"{path}:{line}", f"{error.problem or error.context}", "YAML") from None
    except yaml.YAMLError as error:
        raise SettingError("recipe", f"{path} ({error})", "YAML") from None
    nodes = root.value if isinstance(root, yaml.SequenceNode) else [root] if root else []
    if not nodes:
        raise SettingError("recipe", f"{path}, which has no step", "a list of steps, as - compose: {library: ...}")
    return [_step(node, path) for node in nodes]


def written(steps: Sequence[Step]) -> str:
    """The recipe of these steps; `read` makes the same words of it. Numbers and true and false stand bare, and so does
    a word that no reader of YAML takes for something else."""
    nodes = []
    for step in steps:
        settings = [
            (yaml.ScalarNode(_STR, name), _value(text))
            for name, _, text in (word.partition("=") for word in step.words)
        ]
        nodes.append(_mapping([(yaml.ScalarNode(_STR, step.command), _mapping(settings))]))
    recipe = yaml.SequenceNode(_SEQ, nodes, flow_style=False)
    return yaml.serialize(recipe, Dumper=yaml.SafeDumper, width=math.inf, allow_unicode=True)


def _step(node: yaml.Node, path: Path) -> Step:
    place = _place(node, path)
    name, settings = node, None
    if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
        ((name, settings),) = node.value
    if not isinstance(name, yaml.ScalarNode) or name.value == "":
        got = f"{len(node.value)} keys" if isinstance(node, yaml.MappingNode) else "no command"
        mend = "a step begins with -, and its settings stand further in than its command"
        raise SettingError("step", got, "one command a step, and its settings", mend).at(place)
    command = name.value
    known = [word for word in commands() if word != RUN]
    if command not in known:
        raise SettingError("command", repr(command), ", ".join(known), did_you_mean(command, known)).at(place)
    words: list[str] = []
    places: dict[str, str] = {}
    if settings is not None and not (isinstance(settings, yaml.ScalarNode) and settings.value == ""):
        if not isinstance(settings, yaml.MappingNode):
            raise SettingError("settings", "a value or a list", "key: value for each setting").at(place, command)
        for key, value in settings.value:
            places[str(key.value)] = at = _place(key, path)
            try:
                words.append(_word(key, value))
            except SettingError as error:
                raise error.at(at, command) from None
    return Step(command, words, place, places)


def _word(key: yaml.Node, value: yaml.Node) -> str:
    """A setting as the command line has it."""
    if not (isinstance(key, yaml.ScalarNode) and re.fullmatch(r"\w+", key.value)):
        raise SettingError("key", repr(key.value) if isinstance(key.value, str) else "no word", "the name of a setting")
    listed = isinstance(value, yaml.SequenceNode)
    texts = []
    for node in value.value if listed else [value]:
        if not isinstance(node, yaml.ScalarNode):
            raise SettingError(key.value, "more in it", "a value, or a list of values")
        if node.tag != _STR:
            raise SettingError(key.value, f"the tag {node.tag}", "a value without a tag")
        if node.style is None and node.value in _NULL:
            raise SettingError(key.value, node.value, "a value", "without the key it has its default")
        if listed and "," in node.value:
            raise SettingError(key.value, f"{node.value!r} in a list", "values without a comma")
        texts.append(node.value)
    return f"{key.value}={','.join(texts)}"


def _place(node: yaml.Node, path: Path) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _mapping(pairs: Sequence[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    return yaml.MappingNode(_MAP, list(pairs), flow_style=not pairs)


def _value(text: str) -> yaml.Node:
    values = [_scalar(part) for part in text.split(",")]
    return values[0] if len(values) == 1 else yaml.SequenceNode(_SEQ, values, flow_style=True)


def _scalar(text: str) -> yaml.ScalarNode:
    """Bare where it is a number, true or false; else YAML's writer quotes what could be read as something else. It
    loses some of the characters that do not print, unless they are in double quotes."""
    bare = re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?|true|false", text)
    style = None if text.isprintable() else '"'
    resolve = yaml.resolver.Resolver().resolve
    return yaml.ScalarNode(resolve(yaml.ScalarNode, text, (True, False)) if bare else _STR, text, style=style)
