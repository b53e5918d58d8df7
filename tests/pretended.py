"""A card that is not there: its tensors are computed on the CPU, but mix with the CPU's as badly as a GPU's.

What runs on it and gives the CPU's numbers has no tensor made in the wrong place. Torch's own pretended devices,
``meta`` and ``FakeTensorMode``, hold no values: neither initial rows nor decoding under a grammar can run there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME, CPU = "pretended", torch.device("cpu")
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}  # what copies from one device to another
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default}


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# Once in a process, and before its first backward pass: autograd counts devices then. Where there is a real card, it
# would take that one's place.
if not torch.cuda.is_available():
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    AUTOCAST = torch.library.Library("_", "IMPL")  # casts nothing here
    AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


class _OnCard(Tensor):
    """Its values are in ``values``, a tensor of the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Self:
        made: _OnCard = Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.values = values
        return made

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_card = {id(tensor.values): tensor for tensor in given if isinstance(tensor, _OnCard)}
    to_card = bool(on_card)
    if kwargs.get("device") is not None:
        to_card = torch.device(kwargs["device"]).type == NAME
        if to_card:
            kwargs = {**kwargs, "device": CPU}
    elif function is aten.copy_.default:
        to_card = isinstance(args[0], _OnCard)
    if on_card and function not in CROSSING:  # as on a GPU, numbers and indices may come from the CPU
        checked = tree_leaves((args[:1], args[2:])) if function in INDEXING else given
        if any(isinstance(each, Tensor) and each.ndim and not isinstance(each, _OnCard) for each in checked):
            raise RuntimeError(f"{function} mixes tensors of the card and of the CPU")
    found = function(*tree_map(_values, args), **tree_map(_values, kwargs))

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not to_card:
            return value
        return on_card[id(value)] if id(value) in on_card else _OnCard(value)

    # In inference mode, too, a view of an ordinary tensor is one.
    with torch.inference_mode(any(tensor.is_inference() for tensor in on_card.values())):
        return tree_map(wrapped, found)


def _values(value: Any) -> Any:
    return value.values if isinstance(value, _OnCard) else value


class _Unseen(TorchFunctionMode):
    """What the other mode does not see: ``torch.tensor`` copies to its device, ``data`` takes another's values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        if function == Tensor.data.__set__ and isinstance(args[0], _OnCard):
            args[0].values = args[1].values
            return None
        return function(*args, **kwargs)


class _Card(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):  # in inference mode
            with self:
                return function.decompose(*args, **(kwargs or {}))
        return _run(function, args, kwargs or {})


@contextmanager
def card() -> Iterator[torch.device]:
    """The card, while the block lasts."""
    with _Unseen(), _Card():
        yield torch.device(NAME, 0)
