"""The two errors a user can meet: a mistake to correct, and one model that cannot be used. And the system's own."""

import errno
import re
import sqlite3
from dataclasses import dataclass


class UserError(Exception):
    """Something the user can put right. The CLI prints the message alone and exits with 1."""


class RejectError(Exception):
    """One model cannot be used. It costs that model only and is listed in ``rejects.csv``.

    Args:
        reason: a short code that can be counted, such as ``unsupported_curve``.
        detail: what exactly is wrong, for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True, slots=True, order=True)
class Reject:
    """A model that cannot be used, why, and which pipeline stage left it out: the kind of the manifest beside."""

    id: str
    pipeline_stage: str
    reason: str
    detail: str = ""


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EBUSY)
TOLD = (*FULL, *REFUSED, errno.ENOMEM)  # errors of the system that commands put into words


def system_error(error: Exception) -> int | None:
    """The system's number of an error, however it is told; None of another."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, sqlite3.OperationalError):
        return errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else None
    in_words = re.search(r"\(os error (\d+)\)$", str(error))  # as libraries in Rust have it, such as safetensors
    return int(in_words[1]) if in_words else None
