"""Python scripts of a CAD library, read without being run: their syntax tree, evaluated by a handful of rules.

Assignments, numbers and their arithmetic, ``math``, tuples, lists, ``for`` loops through them, and calls of what a
dialect (``chains``, ``build123d``) knows are read. What shows or writes a part is passed over. Whatever else Python can
say is refused by its line.
"""

import ast
import math
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from pipeline.cad.exchange.libraries.bodies import Body
from pipeline.cad.exchange.libraries.values import MAX_LOOPS, MAX_MM, ScriptError, number, shown, whole
from pipeline.cad.language.program import CadProgram
from pipeline.runtime.errors import RejectError

MAX_BYTES = 4 << 20

ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: math.pow,
}
MATH = ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sqrt", "radians", "degrees", "hypot")
SHOWS = ("show_object", "show", "debug")  # of CadQuery's editor and build123d's viewer
PASSED_OVER = ("export", "export_step", "export_stl", "print")
PART = "part"
MAX_TURNS = 10_000  # of all loops


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a script may say besides numbers.

    Attributes:
        library: the module that a script imports.
        names: functions and constants, by the names under which a script has them (``cq.Plane``).
        methods: of each kind of value, those that a script may call.
        operators: of two values, by the operator's class; None where they do not go together.
        body: what has been extruded, of a value that holds it; else None.
    """

    library: str
    names: Mapping[str, Any]
    methods: Mapping[type, Mapping[str, Callable[..., Any]]]
    operators: Callable[[type, Any, Any], Any]
    body: Callable[[Any], Body | None]


def read(data: bytes | str, dialects: tuple[Dialect, ...]) -> CadProgram:
    """The program that a script describes, in metres: of ``part``, of what it shows, or of what it makes last.

    Raises:
        RejectError: ``malformed_script``, with the line.
    """
    if len(data) > MAX_BYTES:
        raise RejectError("malformed_script", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        tree = ast.parse(data)
        imported = _imports(tree)
        dialect = next((each for each in dialects if each.library in imported), None)
        if dialect is None:
            raise RejectError("malformed_script", f"imports neither {' nor '.join(d.library for d in dialects)}")
        values = _known(dialect, imported)
        _run(tree.body, values, _Reading(dialect))
    except SyntaxError as error:
        raise RejectError("malformed_script", f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise RejectError("malformed_script", f"{type(error).__name__}: {error}"[:200]) from error
    bodies = [body for value in values.values() if (body := dialect.body(value)) is not None]
    found = dialect.body(values[PART]) if PART in values else bodies[-1] if bodies else None
    if found is None:
        raise RejectError("no_geometry", "no extrusion")
    return CadProgram(found.extrudes).scaled(1e-3)


def _imports(tree: ast.Module) -> dict[str, list[str]]:
    """Each module that is imported, with what stands before its names: nothing where these are imported."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, []).append(f"{alias.asname or alias.name}.")
        elif isinstance(node, ast.ImportFrom):
            found.setdefault(node.module or "", []).append("")
    return found


def _known(dialect: Dialect, imported: Mapping[str, list[str]]) -> dict[str, Any]:
    """Names with what they stand for at a script's beginning."""
    numbers: dict[str, Any] = {name: _of_numbers(getattr(math, name)) for name in MATH}
    modules = {dialect.library: dialect.names, "math": {"pi": math.pi, **numbers}}
    names = {
        f"{before}{name}": value
        for module, known in modules.items()
        for before in imported.get(module, ())
        for name, value in known.items()
    }
    return {**names, "range": _range}


def _of_numbers(function: Callable[..., float]) -> Callable[..., float]:
    def checked(*values: Any) -> float:
        try:
            return function(*map(number, values))
        except ValueError as error:
            raise ScriptError(str(error)) from error

    return checked


def _range(*values: Any) -> list[float]:
    bounds = [whole(value, -MAX_LOOPS, MAX_LOOPS) for value in values]
    try:
        return [float(each) for each in range(*bounds)]
    except ValueError as error:
        raise ScriptError(str(error)) from error


@dataclass(slots=True)
class _Reading:
    """While a script is read: what it may say, and how many turns its loops may still take."""

    dialect: Dialect
    turns: int = MAX_TURNS

    def through(self, values: Any) -> list[Any]:
        """What a ``for`` goes through."""
        if not isinstance(values, list | tuple):
            raise ScriptError(f"`for` goes through a list or a range, not {shown(values)}")
        self.turns -= len(values)
        if self.turns < 0:
            raise ScriptError(f"`for` takes more than {MAX_TURNS:,} turns")
        return list(values)


def _run(statements: list[ast.stmt], values: dict[str, Any], reading: _Reading) -> None:
    """Give names their values, statement by statement."""
    for node in statements:
        try:
            _statement(node, values, reading)
        except ScriptError as error:
            raise RejectError("malformed_script", f"line {error.line or node.lineno}: {error}") from error


def _statement(node: ast.stmt, values: dict[str, Any], reading: _Reading) -> None:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
            pass
        case ast.Assign(targets=targets, value=value):
            given = _value(value, values, reading)
            for target in targets:
                for name, one in _bound(target, given).items():
                    values.pop(name, None)  # what is made last comes last
                    values[name] = one
        case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
            values[name] = _binary(type(op), _name(name, values), _value(value, values, reading), reading)
        case ast.For(target=target, iter=over, body=body, orelse=[]):
            for each in reading.through(_value(over, values, reading)):
                values.update(_bound(target, each))
                _run(body, values, reading)
        case ast.Expr(value=ast.Call(func=func, args=[first, *_])) if _last(func) in SHOWS:
            values.setdefault(PART, _value(first, values, reading))
        case ast.Expr(value=ast.Call(func=func)) if _last(func) in PASSED_OVER:
            pass
        case _:
            raise ScriptError(f"`{ast.unparse(node)[:40]}` is more than is read of a script")


def _name(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise ScriptError(f"`{name}` is not known")
    return values[name]


def _value(node: ast.expr, values: MutableMapping[str, Any], reading: _Reading) -> Any:
    def of(each: ast.expr) -> Any:
        return _value(each, values, reading)

    match node:
        case ast.Constant(value=bool() | str() as value):
            return value
        case ast.Constant(value=int() | float() as value):
            return float(value) if abs(value) <= MAX_MM else math.inf
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -number(of(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(type(op), of(left), of(right), reading)
        case ast.Tuple(elts=parts):
            return tuple(of(part) for part in parts)
        case ast.List(elts=parts):
            return [of(part) for part in parts]
        case ast.Name(id=name):
            return _name(name, values)
        case ast.Attribute() if _dotted(node) in values:
            return values[_dotted(node)]
        case ast.ListComp(elt=element, generators=[ast.comprehension(target=target, iter=over, ifs=[], is_async=0)]):
            turns = reading.through(of(over))
            return [_value(element, ChainMap(_bound(target, each), values), reading) for each in turns]
        case ast.Call():
            return _called(node, values, reading)
    raise ScriptError(f"`{ast.unparse(node)[:40]}` is more than is read of a script")


def _binary(operator: type, left: Any, right: Any, reading: _Reading) -> Any:
    if isinstance(left, float) and isinstance(right, float) and operator in ARITHMETIC:
        try:
            return ARITHMETIC[operator](left, right)
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            raise ScriptError(str(error)) from error
    made = reading.dialect.operators(operator, left, right)
    if made is None:
        raise ScriptError(f"{operator.__name__} of {shown(left)} and {shown(right)} is not read")
    return made


def _called(node: ast.Call, values: MutableMapping[str, Any], reading: _Reading) -> Any:
    """A call, or a chain of them: however long, it nests no deeper."""
    chain: list[ast.Call] = []
    base: ast.expr = node
    while isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) and _dotted(base.func) not in values:
        chain.append(base)
        base = base.func.value
    if isinstance(base, ast.Call):
        name = _dotted(base.func)
        value = _apply(name, values.get(name), [], base, values, reading)
    else:
        value = _value(base, values, reading)
    for call in reversed(chain):
        assert isinstance(call.func, ast.Attribute)
        method = reading.dialect.methods.get(type(value), {}).get(call.func.attr)
        value = _apply(call.func.attr, method, [value], call, values, reading)
    return value


def _dotted(node: ast.expr) -> str:
    """``cq.Plane``; of anything but names with dots between ``a call``."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else "a call"


def _last(node: ast.expr) -> str:
    return _dotted(node).rpartition(".")[2]


def _bound(target: ast.expr, value: Any) -> dict[str, Any]:
    """The names that a ``for`` gives to a value."""
    match target:
        case ast.Name(id=name):
            return {name: value}
        case ast.Tuple(elts=parts) if isinstance(value, tuple) and len(value) == len(parts):
            return {
                name: each for part, one in zip(parts, value, strict=True) for name, each in _bound(part, one).items()
            }
    raise ScriptError(f"`{ast.unparse(target)[:40]}` is no name for {shown(value)}")


def _apply(
    name: str, function: Any, first: list[Any], call: ast.Call, values: MutableMapping[str, Any], reading: _Reading
) -> Any:
    if not callable(function):
        raise ScriptError(f"`{name[:40]}` is not known", call.func.end_lineno)
    if any(word.arg is None for word in call.keywords):
        raise ScriptError("`**` is more than is read of a script")
    args = [_value(arg, values, reading) for arg in call.args]
    named = {word.arg: _value(word.value, values, reading) for word in call.keywords if word.arg}
    try:
        return function(*first, *args, **named)
    except TypeError as error:
        raise ScriptError(f"`{name[:40]}`: {str(error).rpartition('() ')[2]}", call.func.end_lineno) from error
    except (ArithmeticError, LookupError, ValueError) as error:  # of shapes that nobody has thought of
        raise ScriptError(f"`{name[:40]}`: {error}", call.func.end_lineno) from error
    except ScriptError as error:
        raise ScriptError(str(error), error.line or call.func.end_lineno) from error
