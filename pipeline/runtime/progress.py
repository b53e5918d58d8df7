"""How commands show progress: a bar in a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

QUIET = "CADMLLM_QUIET"  # variable: progress is not shown, here and in the processes that are started
console = Console(stderr=True, highlight=False)


def quiet() -> bool:
    """Whether results and errors alone are wanted."""
    return os.environ.get(QUIET, "") not in ("", "0")


class Display:
    """Shows done-of-total with a text."""

    def __init__(self, bar: "Progress | None", title: str, shown: bool = True) -> None:
        self._bar = bar
        self._shown = shown
        self._title = title
        self._task = bar.add_task(title, total=None) if bar else None
        self._last = 0.0

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` units are finished."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=f"{self._title}: {text}")
        elif done >= total or time.monotonic() - self._last > 5:  # a line every few seconds, and the last one
            self._last = time.monotonic()
            self.say(f"{done}/{total} {text}")

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(f"[{self._title}] {text}", markup=False)
        elif self._shown:
            print(f"[{self._title}] {text}", file=sys.stderr, flush=True)


@contextmanager
def display(title: str, shown: bool = True) -> Iterator[Display]:
    """A display for one command; silent in a process that only helps another."""
    shown = shown and not quiet()
    if not (console.is_terminal and shown):
        yield Display(None, title, shown)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Display(bar, title)
