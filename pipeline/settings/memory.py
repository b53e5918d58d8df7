"""Out of memory, on a GPU or a CPU: one message that names the parameters with which less of it is needed."""

import errno
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pipeline.runtime.errors import UserError, system_error

# CUDA's own words, malloc's in torch and in the kernel, cuBLAS'.
SIGNS = ("out of memory", "allocate memory", "alloc_failed")
ALLOCATOR = "DefaultCPUAllocator: "  # what torch says before it is of no use to anybody


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, however its library puts it."""
    if isinstance(error, MemoryError) or (isinstance(error, Exception) and system_error(error) == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def explained(work: Callable[[], str], remedies: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Around work that can run out of memory.

    Args:
        work: in words, what was being done.
        remedies: what can be done about it, a line each.

    Raises:
        UserError: memory ran out; with both.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what filled it
        said = str(error).rpartition(ALLOCATOR)[2].strip().partition("\n")[0] or "no more of it is given"
        lines = "".join(f"\n  {line}" for line in remedies())
        raise UserError(f"out of memory {work()}\n({said})\nWhat helps, one or several:{lines}") from None
