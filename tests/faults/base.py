"""What a fault is.

It changes something before a command starts, while it runs, or after it has ended, and takes back then what would not
go away by itself. It says which exit codes it may lead to, and what the message must name.
"""

from typing import TYPE_CHECKING, ClassVar

from tests.faults.project import Stage

if TYPE_CHECKING:
    from tests.faults.run import Attempt


class Fault:
    """Nothing goes wrong.

    Attributes:
        weight: how often it is drawn, beside others.
        stages: kinds of the stages that it can meet; all where it is empty.
        by_dvc: whether it can meet a stage that ``dvc repro`` runs; ``alone``: whether one that is run by itself.
        codes: exit codes, besides 0, that it may lead to.
        says: a pattern that the message of exit code 1 has.
        needs: ``mounts`` where it takes mounts of its own; ``bucket`` where shards are in object storage, ``cluster``
            where a Ray cluster works: these take seconds to begin, and are drawn apart.
    """

    weight: ClassVar[float] = 1.0
    stages: ClassVar[set[str]] = set()
    by_dvc: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    codes: ClassVar[tuple[int, ...]] = ()
    says: ClassVar[str] = "$."
    needs: ClassVar[str] = ""

    @classmethod
    def meets(cls, stage: Stage, by_dvc: bool) -> bool:
        """Whether it can meet a stage."""
        return (cls.by_dvc if by_dvc else cls.alone) and (not cls.stages or stage.kind in cls.stages)

    def before(self, attempt: "Attempt") -> None:
        """Before the command starts."""

    def strike(self, attempt: "Attempt") -> bool:
        """While it runs; False where there is nothing yet that it could strike: it is tried again."""
        return True

    def after(self, attempt: "Attempt") -> None:
        """When the command has ended."""
