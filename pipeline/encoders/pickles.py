"""What the pickle of ``torch.save`` says, opcode by opcode: containers, numbers, texts and where tensors lie.

Nothing is imported and nothing is called. What would be made by a call is ``Unknown``; only what rebuilds a tensor or
an ordered dictionary is known by its name.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# How many values these take from the stack; None: all since the last mark.
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
UNKNOWN = {"NEWOBJ": 2, "NEWOBJ_EX": 3, "OBJ": None, "INST": None, "FROZENSET": None, "EMPTY_SET": 0}
FILLING = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None, "ADDITEMS": None}
PUT, GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
INTEGERS = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4")
TEXTS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING")
PUSHED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys((*INTEGERS, *TEXTS, *BYTES, "FLOAT", "BINFLOAT"), lambda argument: argument),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "GLOBAL": lambda argument: Name(*argument.split(" ", 1)),
}


class Unknown:
    """An object that is not made."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something of a module, which is not looked for."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in a file of the archive: ``("storage", Name of their type, key, device, number)``, not checked."""

    pid: Any


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor: a view of a storage. What it says is not checked."""

    pid: Any
    offset: Any
    size: Any
    stride: Any


def read_pickle(data: bytes) -> Any:
    """The object that a pickle describes.

    Raises:
        ValueError, LookupError, TypeError: it is damaged, or asks for what no checkpoint needs.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("the pickle has no end")


class _Machine:
    """The stack, its marks, and what was memorised."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do what an opcode says."""
        if name in TUPLES:
            self.stack.append(tuple(self.taken(TUPLES[name])))
        elif name in UNKNOWN:
            self.taken(UNKNOWN[name])
            self.stack.append(Unknown())
        elif name in FILLING:
            self.fill(self.taken(FILLING[name]))
        elif name in PUT:
            self.memo[argument] = self.stack[-1]
        elif name in GET:
            self.stack.append(self.memo[argument])
        elif name in PUSHED:
            self.stack.append(PUSHED[name](argument))
        else:
            self.rarer(name)

    def rarer(self, name: str) -> None:
        """An opcode that is one of its kind."""
        match name:
            case "MARK":
                self.marks.append(len(self.stack))
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "STACK_GLOBAL":
                self.stack.append(Name(*map(str, self.taken(2))))
            case "REDUCE":
                self.stack.append(_called(*self.taken(2)))
            case "BINPERSID":
                self.stack.append(Storage(self.taken(1)[0]))
            case "BUILD":  # a state that is set: of an ordered dictionary it is nothing that we read
                self.taken(1)
            case "PROTO" | "FRAME":
                pass
            case _:
                raise ValueError(f"no checkpoint has {name}")

    def taken(self, count: int | None) -> list[Any]:
        """The last values of the stack, or those since the last mark, which are no longer there."""
        begin = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= begin <= len(self.stack):
            raise ValueError("the pickle takes more than there is")
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def fill(self, values: list[Any]) -> None:
        """Put values into the container below them."""
        container = self.stack[-1]
        if isinstance(container, list):
            container += values
        elif isinstance(container, dict):  # only texts are names of tensors; other keys could take long to be hashed
            container.update((key, value) for key, value in zip(values[::2], values[1::2]) if isinstance(key, str))


def _called(function: Any, arguments: Any) -> Any:
    """What a call gives, where it is one of those that make tensors."""
    match function, arguments:
        case Name("collections", "OrderedDict"), ():
            return {}
        case Name("torch._utils", "_rebuild_parameter"), (data, *_):
            return data
        case Name("torch._utils", "_rebuild_tensor_v2"), (Storage(pid), offset, size, stride, *_):
            return Stored(pid, offset, size, stride)
    return Unknown()
