"""Python scripts of a CAD library, read without being run: their syntax tree, evaluated by a handful of rules.

Assignments, numbers and their arithmetic, tuples, lists, and calls of what a dialect (``cadquery``, ``build123d``)
knows are read. Whatever else Python can say is refused by its line.
"""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cad.exchange.script_values import MAX_MM, Body, ScriptError, number, shown
from pipeline.cad.language.program import CadProgram
from pipeline.runtime.errors import RejectError

MAX_BYTES = 4 << 20

ARITHMETIC: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a script may say besides numbers.

    Attributes:
        library: the module that a script imports.
        names: functions and constants, by the names under which a script has them (``cq.Plane``).
        methods: of each kind of value, those that a script may call.
        operators: of two values, by the operator's class; None where they do not go together.
    """

    library: str
    names: Mapping[str, Any]
    methods: Mapping[type, Mapping[str, Callable[..., Any]]]
    operators: Callable[[type, Any, Any], Any]


def read(data: bytes | str, dialects: tuple[Dialect, ...]) -> CadProgram:
    """The program that a script describes, in metres: of ``part``, or of what it makes last.

    Raises:
        RejectError: ``malformed_script``, with the line.
    """
    if len(data) > MAX_BYTES:
        raise RejectError("malformed_script", f"larger than {MAX_BYTES >> 20} MiB")
    try:
        tree = ast.parse(data)
        imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
        dialect = next((each for each in dialects if each.library in imported), None)
        if dialect is None:
            raise RejectError("malformed_script", f"imports neither {' nor '.join(d.library for d in dialects)}")
        values = _run(tree, dialect)
    except SyntaxError as error:
        raise RejectError("malformed_script", f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise RejectError("malformed_script", f"{type(error).__name__}: {error}"[:200]) from error
    bodies = [value for value in values.values() if isinstance(value, Body)]
    found = values.get("part", bodies[-1] if bodies else None)
    if not isinstance(found, Body):
        raise RejectError("no_geometry", "no extrusion")
    return CadProgram(found.extrudes).scaled(1e-3)


def _run(tree: ast.Module, dialect: Dialect) -> dict[str, Any]:
    values: dict[str, Any] = dict(dialect.names)
    for node in tree.body:
        try:
            match node:
                case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                    pass
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    values[name] = _value(value, values, dialect)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    values[name] = _binary(type(op), _name(name, values), _value(value, values, dialect), dialect)
                case _:
                    raise ScriptError(f"`{ast.unparse(node)[:40]}` is more than is read of a script")
        except ScriptError as error:
            raise RejectError("malformed_script", f"line {node.lineno}: {error}") from error
    return values


def _name(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise ScriptError(f"`{name}` is not known")
    return values[name]


def _value(node: ast.expr, values: Mapping[str, Any], dialect: Dialect) -> Any:
    def of(each: ast.expr) -> Any:
        return _value(each, values, dialect)

    match node:
        case ast.Constant(value=bool() | str() as value):
            return value
        case ast.Constant(value=int() | float() as value):
            return float(value) if abs(value) <= MAX_MM else math.inf
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -number(of(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(type(op), of(left), of(right), dialect)
        case ast.Tuple(elts=parts):
            return tuple(of(part) for part in parts)
        case ast.List(elts=parts):
            return [of(part) for part in parts]
        case ast.Name(id=name):
            return _name(name, values)
        case ast.Attribute(value=ast.Name(id=module), attr=attribute) if f"{module}.{attribute}" in values:
            return values[f"{module}.{attribute}"]
        case ast.Call():
            return _called(node, values, dialect)
    raise ScriptError(f"`{ast.unparse(node)[:40]}` is more than is read of a script")


def _binary(operator: type, left: Any, right: Any, dialect: Dialect) -> Any:
    if isinstance(left, float) and isinstance(right, float) and operator in ARITHMETIC:
        try:
            return ARITHMETIC[operator](left, right)
        except (ZeroDivisionError, OverflowError) as error:
            raise ScriptError(str(error)) from error
    made = dialect.operators(operator, left, right)
    if made is None:
        raise ScriptError(f"{operator.__name__} of {shown(left)} and {shown(right)} is not read")
    return made


def _called(node: ast.Call, values: Mapping[str, Any], dialect: Dialect) -> Any:
    """A call, or a chain of them: however long, it nests no deeper."""
    chain: list[ast.Call] = []
    base: ast.expr = node
    while isinstance(base, ast.Call) and isinstance(base.func, ast.Attribute) and _dotted(base.func) not in values:
        chain.append(base)
        base = base.func.value
    if isinstance(base, ast.Call):
        name = _dotted(base.func)
        value = _apply(name, values.get(name), [], base, values, dialect)
    else:
        value = _value(base, values, dialect)
    for call in reversed(chain):
        assert isinstance(call.func, ast.Attribute)
        method = dialect.methods.get(type(value), {}).get(call.func.attr)
        value = _apply(call.func.attr, method, [value], call, values, dialect)
    return value


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "a call"


def _apply(
    name: str, function: Any, first: list[Any], call: ast.Call, values: Mapping[str, Any], dialect: Dialect
) -> Any:
    if not callable(function):
        raise ScriptError(f"`{name[:40]}` is not known")
    if any(word.arg is None for word in call.keywords):
        raise ScriptError("`**` is more than is read of a script")
    args = [_value(arg, values, dialect) for arg in call.args]
    named = {word.arg: _value(word.value, values, dialect) for word in call.keywords if word.arg}
    try:
        return function(*first, *args, **named)
    except TypeError as error:
        raise ScriptError(f"`{name[:40]}`: {str(error).rpartition('() ')[2]}") from error
