"""What goes wrong with what the pipeline reads, and with a service that it tells of its work."""

import os
import socket
from typing import ClassVar

from tests.faults.base import Fault
from tests.faults.disks import flip
from tests.faults.project import CHANGES, RAW, files


class NoService(Fault):
    """Weights & Biases refuses connections."""

    weight = 0.6
    stages: ClassVar[set[str]] = {"train", "evaluate"}
    codes = (1,)
    says = "Weights & Biases: "

    def address(self) -> str:
        return "http://127.0.0.1:9"

    def before(self, attempt):
        attempt.change("wandb_mode: disabled", "wandb_mode: online")
        attempt.env |= {"WANDB_BASE_URL": self.address(), "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(attempt.folder)}
        patience = {"WANDB_INIT_TIMEOUT": "4", "WANDB_HTTP_TIMEOUT": "2"}
        attempt.env |= patience | {"WANDB__GRAPHQL_RETRY_MAX": "1", "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1"}

    def after(self, attempt):
        attempt.change("wandb_mode: online", "wandb_mode: disabled")


class SlowService(NoService):
    """Weights & Biases takes connections and never answers."""

    def address(self) -> str:
        self.service = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"http://127.0.0.1:{self.service.getsockname()[1]}"

    def after(self, attempt):
        super().after(attempt)
        self.service.close()


class DataChange(Fault):
    """The dataset changes while a stage reads it: the result is that of the data as they are at the end."""

    weight = 4.0
    stages: ClassVar[set[str]] = set(CHANGES)
    by_dvc = False
    codes = (1,)
    says = "changed while it was read"

    def before(self, attempt):
        self.data, self.change = CHANGES[attempt.stages[0].name]
        attempt.allow_changed()

    def strike(self, attempt):
        if attempt.run.watcher.published:
            return False  # the stage has read, and is at its end
        self.change(attempt.folder / self.data)
        attempt.run.data_are_changed = True
        return True


class DamagedData(Fault):
    """A file of the dataset is damaged while a stage reads it, and is mended when the command has ended."""

    stages: ClassVar[set[str]] = {"corpus", "geometry"}
    by_dvc = False
    codes = (1,)
    says = "changed while it was read|no model is left for"

    def before(self, attempt):
        attempt.allow_any()

    def strike(self, attempt):
        self.path = attempt.chosen(files(attempt.folder / RAW))
        self.whole = self.path.read_bytes()
        (os.truncate(self.path, len(self.whole) // 2) if attempt.planned.where < 0.5 else flip(self.path, 0.5))
        attempt.again = True
        return True

    def after(self, attempt):
        if hasattr(self, "path"):
            self.path.write_bytes(self.whole)
