"""What a plug-in is: found by its MODULE:NAME, checked, and described to the server.

docs/plugins.md tells users the same.
"""

import importlib
import inspect
import math
import re
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final, NamedTuple

from processing.log import Log
from processing.wire import MAX_PLUGINS, MAX_WINDOW, Description

#: How long a plug-in may take for a frame or a window unless it says otherwise.
DEADLINE_SEC: Final = 5.0
#: A plug-in that hangs is noticed so late; beyond an hour nobody would wait for it.
MAX_DEADLINE_SEC: Final = 3600.0

#: A name is a key in JSON and a label in the metrics.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Unusable(Exception):
    """A plug-in cannot be used; the message says which and why, in one line."""


class Instance(NamedTuple):
    """A plug-in at work for one stream."""

    process: Callable[[Any], object]
    finish: Callable[[], object] | None = None


class Plugin(NamedTuple):
    """A plug-in that was loaded.

    Args:
        begin: makes an instance for a stream.
        setup: what has to be called before the first frame, once for all plug-ins that have the same.
    """

    spec: str
    description: Description
    begin: Callable[[], Instance]
    setup: Callable[[], object] | None


def load(specs: Sequence[str], log: Log) -> list[Plugin]:
    """Import plug-ins, in this order.

    Raises:
        Unusable: one of them cannot be imported, or breaks the contract.
    """
    if len(specs) > MAX_PLUGINS:
        raise Unusable(f"{len(specs)} plug-ins, at most {MAX_PLUGINS} are run")
    plugins: dict[str, Plugin] = {}
    for spec in specs:
        plugin = _load(spec, log)
        name = plugin.description.name
        if name in plugins:
            raise Unusable(f"{plugins[name].spec} and {spec} are both named {name}: give one of them another `name`")
        plugins[name] = plugin
    return list(plugins.values())


def set_up(plugins: Sequence[Plugin], log: Log) -> None:
    """Call each `setup`, once.

    Raises:
        Unusable: it raised; the traceback is in the log.
    """
    done: list[Callable[[], object]] = []
    for plugin in plugins:
        if plugin.setup is not None and plugin.setup not in done:
            done.append(plugin.setup)
            try:
                plugin.setup()
            except BaseException as error:
                log.say_trace(error)
                raise Unusable(f"{plugin.spec}: its setup failed: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """An exception as a traceback's last line has it, without what follows in further lines."""
    name = "an exception"
    try:
        name = f"{type(error).__name__}"
        message = str(error).strip().splitlines()
        return f"{name}: {message[0]}" if message else name
    except BaseException:  # the exception is the plug-in's too, and may raise SystemExit when it is asked for its text
        return name


def _load(spec: str, log: Log) -> Plugin:
    module_name, separator, name = spec.partition(":")
    if not (separator and module_name and name):
        raise Unusable(f"{spec!r} is no plug-in, expected MODULE:NAME")
    module = _import(spec, module_name, log)
    try:
        target = getattr(module, name)
    except AttributeError:
        raise Unusable(f"{spec}: the module {module_name} ({_place(module)}) has no {name}") from None
    if not callable(target):
        raise Unusable(f"{spec}: it is {_article(type(target).__name__)}, expected a function or a class")
    window = _window(spec, target)
    description = Description(_name(spec, target, name), _rate(spec, target), window, _deadline(spec, target))
    if inspect.isclass(target):
        _check_class(spec, target, window)
    else:
        _check_call(spec, target, 1, "a list of frames" if window else "a frame")
    return Plugin(spec, description, _beginner(target), _setup(spec, target, module))


def _import(spec: str, module_name: str, log: Log) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            folders = "the working directory, PYTHONPATH or what is installed"
            raise Unusable(f"{spec}: there is no module {error.name} in {folders}") from None
        raise Unusable(f"{spec}: cannot be imported: {one_line(error)}{_where(error)}") from None
    except BaseException as error:
        log.say_trace(error)
        raise Unusable(f"{spec}: cannot be imported: {one_line(error)}{_where(error)}") from None


def _where(error: BaseException) -> str:
    """The line outside Python's own import system that was executed last; empty where the error itself says it."""
    frames = traceback.extract_tb(error.__traceback__)
    machinery = (__file__, importlib.__file__)
    lines = [frame for frame in frames if frame.filename not in machinery and not frame.filename.startswith("<")]
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _name(spec: str, target: Any, default: str) -> str:
    name = getattr(target, "name", default)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Unusable(f"{spec}: its name is {name!r}, expected 1 to 64 letters, digits, _, . or -")
    return name


def _rate(spec: str, target: Any) -> float | None:
    rate = getattr(target, "rate", None)
    if rate is None:
        return None
    if not _is_number(rate) or not 0 < rate < math.inf:
        raise Unusable(f"{spec}: its rate is {rate!r}, expected a number of Hz above 0")
    return float(rate)


def _window(spec: str, target: Any) -> int:
    window = getattr(target, "window", None)
    if window is None:
        return 0
    if not isinstance(window, int) or isinstance(window, bool) or not 1 <= window <= MAX_WINDOW:
        raise Unusable(f"{spec}: its window is {window!r}, expected a number of frames from 1 to {MAX_WINDOW}")
    return window


def _deadline(spec: str, target: Any) -> float:
    deadline = getattr(target, "deadline", DEADLINE_SEC)
    if not _is_number(deadline) or not 0 < deadline <= MAX_DEADLINE_SEC:
        raise Unusable(f"{spec}: its deadline is {deadline!r}, expected seconds above 0 and up to {MAX_DEADLINE_SEC:g}")
    return float(deadline)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_class(spec: str, target: type, window: int) -> None:
    _check_call(spec, target, 0, "nothing, once for each stream")
    process = getattr(target, "process", None)
    if not callable(process):
        raise Unusable(f"{spec}: the class has no method process")
    argument = "a list of frames" if window else "a frame"
    _check_call(spec, process, _arguments(target, "process", 1), argument, "its process")
    finish = getattr(target, "finish", None)
    if finish is not None:
        if not callable(finish):
            raise Unusable(f"{spec}: its finish is {_article(type(finish).__name__)}, expected a method")
        _check_call(spec, finish, _arguments(target, "finish", 0), "nothing", "its finish")


def _arguments(target: type, method: str, arguments: int) -> int:
    """What a method takes when it is looked up in the class: `self` as well, where it has one."""
    plain = inspect.isfunction(inspect.getattr_static(target, method))
    return arguments + plain


def _check_call(spec: str, target: Callable[..., object], arguments: int, what: str, name: str = "it") -> None:
    if inspect.iscoroutinefunction(target):
        raise Unusable(f"{spec}: {name} is a coroutine function, expected one that returns its result")
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # written in C: it will tell
    try:
        signature.bind(*range(arguments))
    except TypeError as error:
        raise Unusable(f"{spec}: {name} cannot be called with {what}: {error}") from None


def _beginner(target: Any) -> Callable[[], Instance]:
    if not inspect.isclass(target):
        same = Instance(target)
        return lambda: same

    def begin() -> Instance:
        instance: Any = target()
        return Instance(instance.process, getattr(instance, "finish", None))

    return begin


def _setup(spec: str, target: Any, module: ModuleType) -> Callable[[], object] | None:
    """The class's own setup, else its module's."""
    own = inspect.isclass(target) and getattr(target, "setup", None) is not None
    setup = getattr(target if own else module, "setup", None)
    if setup is None:
        return None
    name = "its setup" if own else f"the setup of {module.__name__}"
    if not callable(setup):
        raise Unusable(f"{spec}: {name} is {_article(type(setup).__name__)}, expected a function")
    _check_call(spec, setup, 0, "nothing (it should be a classmethod)" if own else "nothing", name)
    return setup  # type: ignore[no-any-return]
