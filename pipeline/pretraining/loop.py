"""A resumable training loop: the position is the optimizer step, and everything else follows from it."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pipeline.curriculum.log import StageLog
from pipeline.curriculum.schedule import learning_rate_factor
from pipeline.runtime import interrupt
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.seeds import uniform
from pipeline.settings.recipes import Recipe
from pipeline.training.state import Position, collect_moments, read_state, save_state, saved_states, set_moments

B = TypeVar("B")
LOG = "log.jsonl"
KEPT_STATES = 2


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
    ) -> None:
        self.module, self.recipe, self.seed, self.batch, self.loss = module, recipe, seed, batch, loss
        self.scratch, self.show = scratch, show
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        self.trained = trained
        states = saved_states(scratch)
        at = Position()
        if states:
            at, files, moments = read_state(states[-1])
            module.load_state_dict(files["module"])
            set_moments(self.optimizer, moments)
            show(at.step, recipe.steps, f"resuming after step {at.step} from {states[-1]}")
        self.done, self.started = at.step, time.perf_counter()
        self.log = StageLog(scratch / LOG, at.log_bytes, speed, True, lambda _: None)

    def run(self) -> None:
        """Do what is left.

        Raises:
            Interrupted: a stop was asked for; the state is saved.
            UserError: the loss is not finite.
        """
        recipe = self.recipe
        if self.trained[0].device.type == "cpu":
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
        for step in range(self.done, self.recipe.steps):
            yield self.batch(step)

    def _step(self, batch: B) -> dict[str, Tensor]:
        recipe = self.recipe
        warmup = math.ceil(recipe.warmup_fraction * recipe.steps)
        factor = learning_rate_factor(self.done, recipe.steps, "cosine", warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * factor
        torch.manual_seed(int(uniform(self.seed, "pretraining", self.done) * 2**63))
        loss, parts = self.loss(batch)
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
        tensors: dict[str, Any] = {key: value.cpu().contiguous() for key, value in self.module.state_dict().items()}
        position = Position(step=self.done, log_bytes=self.log.sync())
        save_state(self.scratch, position, {"module": tensors}, collect_moments(self.optimizer), KEPT_STATES)
