"""A configuration typo never runs: before anything is built, every key is held against the signature it is meant for.

Unknown, missing and wrongly typed keys are collected and reported together, a line each, with the nearest valid name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

UNCHECKABLE = object()


class Problem(NamedTuple):
    """One thing wrong with a configuration, and where."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """A configuration that must not run. `problems` holds a line for each fault."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass
class Checker:
    """Holds configuration nodes against signatures and collects problems.

    Attributes:
        problems: what was found.
        known: every valid path met, by its last name: tells where a misplaced key belongs.
    """

    problems: list[Problem] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[tuple[str, list[str]]] = field(default_factory=list)

    def report(self) -> list[Problem]:
        """All problems, unknown keys with their suggestions, in order of path."""
        named = [Problem(path, self._advice(path, valid)) for path, valid in self.unknown]
        return sorted(set(self.problems + named))

    def add(self, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, message))

    def keys(self, path: str, given: Iterable[str], valid: Iterable[str], special: Iterable[str] = ()) -> None:
        """Note the given keys that are neither valid nor special ones."""
        names = list(valid)
        for name in names:
            self.known.setdefault(name, []).append(join(path, name))
        self.unknown += [(join(path, key), names) for key in given if key not in names and key not in special]

    def call(
        self,
        path: str,
        target: Callable[..., Any],
        node: dict[str, Any],
        supplied: Iterable[str] = (),
        special: Iterable[str] = (),
    ) -> None:
        """Hold a node against the signature of what it will be passed to, but for what the builder supplies."""
        parameters = {name: p for name, p in _parameters(target).items() if name not in supplied}
        hints = _hints(target)
        self.keys(path, node, parameters, special)
        for name, parameter in parameters.items():
            if name in node:
                self.value(join(path, name), node[name], hints.get(name, Any))
            elif parameter.default is parameter.empty and not node.get("_partial_"):
                self.add(join(path, name), f"missing: {_name(target)} requires it ({_describe(hints.get(name, Any))})")

    def component(
        self, path: str, node: dict[str, Any], supplied: Iterable[str] = (), num_supplied: int | None = None
    ) -> Any:
        """Check a node with a `_target_`; return the class or function it names, or None.

        `num_supplied` is for a component that its owner finishes: the number of leading arguments the owner gives.
        """
        target = self._target(path, node.get("_target_"))
        if target is not None and num_supplied is None:
            self.call(path, target, node, supplied, special=("_target_",))
        elif target is not None:
            self.call(path, target, node, list(_parameters(target))[:num_supplied], special=("_target_", "_partial_"))
        return target

    def value(self, path: str, value: Any, hint: Any) -> None:
        """Hold one value against its annotation."""
        if isinstance(value, str) and value == "???":
            self.add(path, f"missing: give it a value ({_describe(hint)})")
        elif isinstance(value, dict) and ("_target_" in value or _wants_component(hint)):
            self._component_value(path, value, hint)
        elif (item := _component_item(hint)) is not None and isinstance(value, list):
            for number, own in enumerate(value):
                self.value(f"{path}[{number}]", own, item)
        elif not fits(value, hint):
            self.add(path, f"expected {_describe(hint)}, not {_show(value)}{_hint_for_number(value, hint)}")

    def _component_value(self, path: str, node: dict[str, Any], hint: Any) -> None:
        if "_target_" not in node:
            self.add(path, f"a component needs _target_ (expected {_describe(hint)}); or null to leave it out")
            return
        factories = [option for option in _options(hint) if _is_callable_hint(option)]
        if factories:
            self._factory(path, node, factories[0], hint)
            return
        target = self.component(path, node)
        classes = [option for option in _options(hint) if inspect.isclass(option) and option is not type(None)]
        if target is not None and classes and not any(_is_a(target, kind) for kind in classes):
            self.add(path, f"expected {_describe(hint)}, not {_name(target)}")

    def _factory(self, path: str, node: dict[str, Any], factory: Any, hint: Any) -> None:
        """A component whose owner supplies the first arguments, sizes it alone knows."""
        if node.get("_partial_") is not True:
            self.add(path, "add _partial_: true, as this component's sizes are filled in later")
        given, made = get_args(factory)
        target = self.component(path, node, num_supplied=0 if given is Ellipsis else len(given))
        if inspect.isclass(target) and inspect.isclass(made) and not _is_a(target, made):
            self.add(path, f"expected {_describe(hint)}, not {_name(target)}")

    def _target(self, path: str, dotted: Any) -> Any:
        place = join(path, "_target_")
        if not isinstance(dotted, str) or "." not in dotted:
            self.add(place, f"missing: name a class by its dotted path, not {_show(dotted)}")
            return None
        module_name, _, name = dotted.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            self.add(place, f"cannot import {module_name!r} ({error})")
            return None
        if not callable(getattr(module, name, None)):
            public = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name]
            self.add(place, f"{module_name} has no {name!r}{nearest(name, public)}")
            return None
        return getattr(module, name)

    def _advice(self, path: str, valid: list[str]) -> str:
        parent, _, name = path.rpartition(".")
        near = nearest(name, valid, prefix=f"{parent}." if parent else "")
        elsewhere = [other for other in self.known.get(name, []) if other != path]
        if not near and elsewhere:
            near = f"; did you mean {elsewhere[0]}?"
        return f"unknown key{near or '; valid here: ' + ', '.join(valid)}"


def _is_a(target: Any, kind: type) -> bool:
    """Whether a class is of a kind. Of a protocol methods count: what constructors set isn't there yet."""
    if not getattr(kind, "_is_protocol", False):
        return inspect.isclass(target) and issubclass(target, kind)
    methods = [name for name, member in vars(kind).items() if inspect.isfunction(member) and not name.startswith("_")]
    return inspect.isclass(target) and all(callable(getattr(target, name, None)) for name in methods)


def join(path: str, name: str) -> str:
    """Return a configuration path one level down."""
    return f"{path}.{name}" if path else name


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is acceptable to an annotation. An int is a float; a bool is no number."""
    if hint is Any or hint is UNCHECKABLE or isinstance(hint, typing.TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    return _fits_container(value, origin or hint, arguments)


def _fits_container(value: Any, container: Any, arguments: tuple[Any, ...]) -> bool:
    if not inspect.isclass(container):
        return True
    if issubclass(container, dict):
        return isinstance(value, dict) and all(fits(v, arguments[1] if arguments else Any) for v in value.values())
    if container in (tuple, list, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if container is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return all(fits(item, arguments[0] if arguments else Any) for item in value)
    return False


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in inspect.signature(target).parameters.items() if p.kind in kinds}


def _hints(target: Any) -> dict[str, Any]:
    """Annotations resolved; those a foreign library can't resolve are not checked."""
    source = target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target
    try:
        return typing.get_type_hints(source)
    except (NameError, TypeError):
        return dict.fromkeys(_parameters(target), UNCHECKABLE)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _wants_component(hint: Any) -> bool:
    plain = (bool, int, float, str, dict, list, tuple, type(None), Any)
    options = [option for option in _options(hint) if option not in plain]
    return any((inspect.isclass(o) and get_origin(o) is None) or _is_callable_hint(o) for o in options)


def _component_item(hint: Any) -> Any:
    """Return what a list holds that is asked for, where these are components."""
    listed = [option for option in _options(hint) if get_origin(option) in (list, tuple, Sequence)]
    items = [get_args(option)[0] for option in listed if get_args(option)]
    return next((item for item in items if _wants_component(item)), None)


def _is_callable_hint(hint: Any) -> bool:
    return get_origin(hint) is Callable


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    if _is_callable_hint(hint):
        return f"a component (_partial_: true) that makes a {_name(get_args(hint)[-1])}"
    if get_origin(hint) is tuple and Ellipsis not in get_args(hint):
        return f"a list of {len(get_args(hint))}, each {_describe(get_args(hint)[0])}"
    if get_origin(hint) in (list, tuple, Sequence):
        return f"a list, each {_describe(get_args(hint)[0])}"
    return _name(hint) if inspect.isclass(hint) else str(hint).replace("typing.", "")


def _show(value: Any) -> str:
    words = {str: "the text", bool: "", int: "the number", float: "the number"}
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{words.get(type(value), '')} {value!r}".strip()


def _hint_for_number(value: Any, hint: Any) -> str:
    if not isinstance(value, str) or not any(option in (int, float) for option in _options(hint)):
        return ""
    try:
        return f" (YAML reads it as text: write {float(value):.1e})" if "e" in value.lower() else ""
    except ValueError:
        return ""


def nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return a question naming the valid name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _name(target: Any) -> str:
    return getattr(target, "__name__", str(target))
