"""A resumable training loop: the position is the optimizer step, and everything else follows from it."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.curriculum.log import StageLog
from pipeline.curriculum.schedule import learning_rate_factor
from pipeline.pretraining.settings import Recipe
from pipeline.runtime import interrupt
from pipeline.runtime.device import autocast
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.seeds import digest
from pipeline.training.state import Position, collect_moments, latest_state, load_moments, read_state, save_state

B = TypeVar("B")
LOG = "log.jsonl"
KEPT_STATES = 2


class _Made(Dataset[B]):
    """The batch of each step, for worker processes to make."""

    def __init__(self, batch: Callable[[int], B], steps: range) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> B:
        return self.batch(self.steps[number])


def _leave_stops(_: int) -> None:
    """Ctrl-C is for the process that trains: it finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def on_device(batch: B, device: torch.device) -> B:
    """A batch, which is a dataclass, with its tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(each) for name, each in value.items()}
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    values = {field.name: moved(getattr(batch, field.name)) for field in fields(batch)}  # type: ignore[arg-type]
    return replace(batch, **values)  # type: ignore[type-var]


class Pretrainer(Generic[B]):
    """Trains a module in place, going on from ``scratch`` where it was interrupted.

    Args:
        module: all parameters that want a gradient are trained.
        recipe: steps, rates, how often a state is saved.
        batch: the inputs of a step: a function of its number alone.
        loss: what is minimised, and its parts by name, for the log.
        scratch: folder of states and log.
        speed: file that tells how fast it went: part of no result.
        show: progress: steps done, all steps, a text.
        dtype: of products, where it is not float32: mixed precision.
        num_workers: processes that make batches ahead; 0: a thread. It changes no result.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        seed: int,
        batch: Callable[[int], B],
        loss: Callable[[B], tuple[Tensor, dict[str, Tensor]]],
        scratch: Path,
        speed: Path,
        show: Callable[[int, int, str], None],
        dtype: torch.dtype = torch.float32,
        num_workers: int = 0,
    ) -> None:
        self.module, self.recipe, self.seed, self.batch, self.loss = module, recipe, seed, batch, loss
        self.scratch, self.show, self.dtype, self.num_workers = scratch, show, dtype, num_workers
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        self.trained, self.device = trained, trained[0].device
        state = latest_state(scratch, lambda text: show(0, recipe.steps, text))
        at = Position()
        if state is not None:
            at, files = read_state(state)
            module.load_state_dict(files["module"])
            load_moments(state, self.optimizer)
            show(at.step, recipe.steps, f"resuming after step {at.step} from {state}")
        self.done, self.started = at.step, time.perf_counter()
        self.log = StageLog(scratch / LOG, at.log_bytes, speed, True, lambda _: None)

    def run(self) -> None:
        """Do what is left.

        Raises:
            Interrupted: a stop was asked for; the state is saved.
            UserError: the loss is not finite.
        """
        recipe = self.recipe
        if self.device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.module.train()
        with closing(prefetch(self._batches())) as batches:
            for batch in batches:
                parts = self._step(batch)
                self.done += 1
                if self.done % recipe.log_every == 0 or self.done == recipe.steps:
                    self._log(parts)
                stop = interrupt.requested()
                if stop or self.done % recipe.save_every == 0 or self.done == recipe.steps:
                    self._save()
                if stop:
                    interrupt.stop()
        self.module.eval()

    def _batches(self) -> Iterator[B]:
        steps = range(self.done, self.recipe.steps)
        if not self.num_workers:
            yield from map(self.batch, steps)
            return
        made = _Made(self.batch, steps)
        yield from DataLoader(made, None, num_workers=self.num_workers, prefetch_factor=4, worker_init_fn=_leave_stops)

    def _step(self, batch: B) -> dict[str, Tensor]:
        recipe = self.recipe
        warmup = math.ceil(recipe.warmup_fraction * recipe.steps)
        factor = learning_rate_factor(self.done, recipe.steps, "cosine", warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * factor
        torch.manual_seed(digest(self.seed, "pretraining", self.done))
        with autocast(self.device, self.dtype):
            loss, parts = self.loss(on_device(batch, self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach(), **parts}

    def _log(self, parts: dict[str, Tensor]) -> None:
        self.log.write_speed(self.done, seconds=round(time.perf_counter() - self.started, 1))
        self.started = time.perf_counter()
        values = {name: round(float(value), 6) for name, value in parts.items()}
        if not math.isfinite(values["loss"]):
            raise UserError(f"the loss is {values['loss']} at step {self.done}; lower the recipe's lr")
        self.log.write("train", self.done, lr=self.optimizer.param_groups[0]["lr"], **values)
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.show(self.done, self.recipe.steps, text)

    def _save(self) -> None:
        position, tensors = Position(step=self.done, log_bytes=self.log.sync()), {"module": self.module.state_dict()}
        save_state(self.scratch, position, tensors, collect_moments(self.optimizer), KEPT_STATES)
