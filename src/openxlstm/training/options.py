"""Command-line options from dataclasses: `--a.b=value`, typed, explained by the docstrings, one line for a mistake.

Small on purpose: it knows the types that configurations use (bool, int, float, str, Path, Literal, X | None, tuples of
these) and nested frozen dataclasses, and imports nothing.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from openxlstm.errors import UserError

Config = TypeVar("Config")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def describe(config: Any) -> dict[str, tuple[Any, Any, str]]:
    """Every option of a (nested) dataclass instance: dotted name -> (type, current value, explanation)."""
    found: dict[str, tuple[Any, Any, str]] = {}
    hints, docs = typing.get_type_hints(type(config)), _field_docs(type(config))
    for f in dataclasses.fields(config):
        if not f.init:
            continue
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{f.name}.{name}": entry for name, entry in describe(value).items()}
        else:
            found[f.name] = (hints[f.name], value, docs.get(f.name, ""))
    return found


def override(config: Config, options: Mapping[str, str]) -> Config:
    """A copy of `config` with the dotted `options` set; UserError for an unknown name or a value of the wrong type."""
    known = describe(config)
    changes: dict[str, Any] = {}
    for name, text in options.items():
        if name not in known:
            raise UserError(unknown(f"--{name}", [f"--{k}" for k in known]))
        changes[name] = parse_value(known[name][0], text, f"--{name}")
    return _replace(config, changes)


def from_dict(config: Config, values: Mapping[str, Any], where: str = "config") -> Config:
    """A copy of `config` with nested plain `values` (as read from JSON) put in; UserError names the key that is wrong."""
    changes: dict[str, Any] = {}
    hints = typing.get_type_hints(type(config))
    names = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in names:
            raise UserError(f"{where}: " + unknown(repr(name), sorted(names)))
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {name} must be an object, not {value!r}")
            changes[name] = from_dict(current, value, where)
        else:
            changes[name] = _check(hints[name], value, f"{where}: {name}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def split_arguments(argv: Sequence[str], flags: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Positional words and options of a command line. `--x=v`, `--x v`, and for names in `flags` a bare `--x`."""
    words: list[str] = []
    options: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if word.startswith("-") and word != "-":
                raise UserError(f"unknown option {word!r}; options start with two dashes")
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in flags:
            if equals:
                raise UserError(f"--{name} takes no value")
            value = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                near = difflib.get_close_matches(name, flags, n=1)
                hint = f"; did you mean --{near[0]}?" if near else ""
                raise UserError(f"--{name} needs a value: --{name}=VALUE{hint}")
            value = rest.pop(0)
        if name in options:
            raise UserError(f"--{name} is given twice")
        options[name] = value
    return words, options


def parse_value(kind: Any, text: str, name: str) -> Any:
    """`text` as a value of type `kind`; UserError says what was expected."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if type(None) in args and text.lower() in ("none", "null", ""):
            return None
        failure: UserError | None = None
        for option in (a for a in args if a is not type(None)):
            try:
                return parse_value(option, text, name)
            except UserError as error:
                failure = failure or error
        raise failure or UserError(f"{name}: cannot read {text!r}")
    if origin is Literal:
        for choice in args:
            if str(choice) == text:
                return choice
        raise UserError(f"{name} must be one of {', '.join(map(str, args))}, not {text!r}")
    if origin in (tuple, list):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return origin(parse_value(args[0], part, name) for part in parts)
    if kind is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise UserError(f"{name} must be true or false, not {text!r}")
    if kind is int:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise UserError(f"{name} must be a whole number, not {text!r}") from None
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{name} must be a number, not {text!r}") from None
    if kind in (str, Any):
        return text
    if isinstance(kind, type) and issubclass(kind, Path):
        return Path(text)
    raise UserError(f"{name} cannot be set on the command line")


def unknown(name: str, known: Sequence[str]) -> str:
    """The message for a name that does not exist, with the nearest that do."""
    leaf = name.lstrip("-")
    near = [k for k in known if "." in k and k.rsplit(".", 1)[-1] == leaf][:2]  # `--lr` for `--optimizer.lr`
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; --help lists what there is"
    return f"unknown option {name}{hint}"


def help_text(config: Any) -> str:
    """One line an option: name, type, value, explanation, wrapped at 110 columns."""
    lines = []
    for name, (kind, value, doc) in describe(config).items():
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        lines.append(f"  --{name}={shown}  ({type_name(kind)})")
        lines += textwrap.wrap(doc, 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def type_name(kind: Any) -> str:
    """A type as a reader would say it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a) for a in args)
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (tuple, list):
        return f"{type_name(args[0])},..."
    if kind is type(None):
        return "none"
    return getattr(kind, "__name__", str(kind))


def _replace(config: Any, changes: Mapping[str, Any]) -> Any:
    direct = {name: value for name, value in changes.items() if "." not in name}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if "." in name:
            head, tail = name.split(".", 1)
            nested.setdefault(head, {})[tail] = value
    for head, below in nested.items():
        direct[head] = _replace(getattr(config, head), below)
    return dataclasses.replace(config, **direct)


def _check(kind: Any, value: Any, name: str) -> Any:
    """A JSON value as a value of type `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        if kind is Any or type(None) in args:
            return None
        raise UserError(f"{name} must not be null")
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_check(args[0], v, name) for v in value)
    if origin in (Union, types.UnionType):
        for option in (a for a in args if a is not type(None)):
            try:
                return _check(option, value, name)
            except UserError:
                continue
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (kind in (int, bool, str) and type(value) is kind) or (origin is Literal and value in args):
        return value
    elif isinstance(kind, type) and issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise UserError(f"{name} must be {type_name(kind)}, not {value!r}")


def _field_docs(cls: type) -> dict[str, str]:
    """Explanations of the fields: the string below a field, or `name: explanation` entries of the class docstring, where
    deeper-indented lines continue the entry before them. Base classes count."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _entries(base) | _attribute_strings(base)
    return docs


def _entries(cls: Any) -> dict[str, str]:
    names = {f.name for f in dataclasses.fields(cls)}
    docs: dict[str, str] = {}
    current = None
    for line in inspect.cleandoc(cls.__dict__.get("__doc__") or "").splitlines():
        found = re.match(r"\s*`{0,2}(\w+)`{0,2}(?:\s*\([^)]*\))?: +(.*)", line)
        if found and found[1] in names:
            current = found[1]
            docs[current] = found[2].strip()
        elif current and line.strip():
            docs[current] += " " + line.strip()
        else:
            current = None
    return docs


def _attribute_strings(cls: Any) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    docs: dict[str, str] = {}
    lines = body.body if isinstance(body, ast.ClassDef) else []
    for line, after in itertools.pairwise(lines):
        match line, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                docs[name] = " ".join(text.split())
    return docs
