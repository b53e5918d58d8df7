"""One curriculum stage: batch, loss, step, log, save, validate. Read `Trainer.train` first.

The position in training is the optimizer step; the plan, the views and the random numbers of dropout follow
from it, so a run that was interrupted ends with the weights of one that was not.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.log import StageLog
from pipeline.curriculum.plan import Example, StagePlan, Step
from pipeline.curriculum.schedule import Course, course, expected_shares, learning_rate_factor, validation_objective
from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.model.cad_mllm import Batch, CadMllmModel
from pipeline.model.checkpoint import TensorFiles, trained_parts, trained_tensors
from pipeline.runtime import interrupt
from pipeline.runtime.device import autocast
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.seeds import digest
from pipeline.training.complexity import adaptations
from pipeline.training.meters import Outcome, RunningLoss, Speed, Tally
from pipeline.training.optimizer import clip_gradients, make_optimizer, set_learning_rates
from pipeline.training.parallel import Parallel
from pipeline.training.state import Position, collect_moments, latest_state, load_moments, load_state, save_state
from pipeline.training.validation import validate

VALIDATION = {"loss": "validation", "reward": "reward in validation"}  # as its figures are told


@dataclass(frozen=True, slots=True)
class Job:
    """One stage to be trained.

    Attributes:
        scratch: folder of its resumable states.
        save_best: writes a checkpoint of the model as it is, from its tensors, validation losses and steps.
        open_log: the log, given how many of its bytes are to be kept.
        show: progress: steps done, all steps, a text.
        say: a line that stays.
    """

    stage: CurriculumStage
    training: Training
    train: TrainingData
    validation: TrainingData
    seed: int
    scratch: Path
    parallel: Parallel
    save_best: Callable[[TensorFiles, dict[str, float], int], None]
    open_log: Callable[[int], StageLog]
    show: Callable[[int, int, str], None]
    say: Callable[[str], None]


class Trainer:
    """Trains one stage in place, resuming from ``scratch`` where it was interrupted.

    Attributes:
        counted: what the loss is a mean over.

    Raises:
        UserError: the stage trains nothing, or there is nothing to train on.
    """

    counted = "num_targets"

    def __init__(self, model: CadMllmModel, job: Job) -> None:
        self.model, self.job = model, job
        stage, training, parallel = job.stage, job.training, job.parallel
        self.num_tokens = model.num_tokens()
        views = (model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample)
        self.plan = StagePlan(job.train.names, job.train.num_targets, stage, training, views, job.seed)

        state = parallel.from_main(lambda: latest_state(job.scratch, job.say))
        new_rows = stage.text_embeddings == "all" and state is None  # a state has its own
        text_ids = parallel.from_main(job.train.text_ids) if new_rows else set()
        free_trained_parts(model, stage, training, text_ids, parallel.device)
        at = Position() if state is None else load_state(state, model, parallel)
        self.factors = adaptations(model, job.train, training.projector_lr_adaptation, job.seed)
        self.wrapped = parallel.wrap(model)
        self.optimizer = make_optimizer(model, stage, training, self.factors)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=training.dtype == "float16")
        if state is not None:
            load_moments(state, self.optimizer, parallel)
            self.scaler.load_state_dict(at.scaler)
            job.say(f"resuming after step {at.step} of {self.plan.num_steps} from {state}")

        self.done = self.saved = at.step
        self.log = job.open_log(at.log_bytes)
        self.log.lines = parallel.from_main(lambda: self.log.lines)
        self.course = self.follow()
        self.losses, self.tally = RunningLoss(at.sums, model.device), Tally()
        logged = max((line["step"] for line in self.log.lines if line["event"] == "train"), default=0)
        in_window = self.done - logged  # steps that the next line of the log is about too
        for step in itertools.islice(self.plan.steps(self.done - in_window), in_window):
            self.tally.add(step, expected_shares(stage, step.progress))
        self.steps = prefetch(self.load(self.plan.steps(self.done)))
        self.speed = Speed(model)

    def train(self) -> dict[str, Any]:
        """Do what is left of the stage.

        Returns:
            Figures of the whole stage.

        Raises:
            Interrupted: a stop was asked for; the state is saved.
        """
        training, parallel = self.job.training, self.job.parallel
        with closing(self.steps):
            self.validate_where_due()
            while self.done < self.course.num_steps:
                with self.speed.waiting():
                    step, given = next(self.steps)
                outcome = self.learn(step, given)
                self.done += 1
                self.losses.add(outcome)
                self.tally.add(step, expected_shares(self.job.stage, step.progress))
                self.log_step(step, outcome.grad_norm)
                stop = parallel.any(interrupt.requested())
                if stop or self.done % training.save_every == 0 or self.validates():
                    self.save()
                if stop:
                    interrupt.stop()
                self.validate_where_due()
            self.log_epoch_cut_short()
        self.job.say(self.speed.summary())
        return self.figures()

    def load(self, steps: Iterator[Step]) -> Iterator[tuple[Step, Any]]:
        """Each step with what ``learn`` is given of it, read ahead: the batches of this process, and their weight."""
        job = self.job
        return load_steps(steps, job.train, job.training.tokens_per_batch, self.num_tokens, job.parallel)

    def learn(self, step: Step, given: Any) -> Outcome:
        """One optimizer step."""
        return self.optimize(given, step.num_targets)

    def optimize(self, batches: Sequence[tuple[Batch, float]], num_targets: int) -> Outcome:
        """Follow the gradient of the loss, the mean over the step's target tokens.

        The mean is the same however the tokens are cut into micro-batches and processes. Gradients are averaged over
        processes, so each process' part counts as many times as there are.
        """
        training, parallel = self.job.training, self.job.parallel
        warmup = math.ceil(training.warmup_fraction * self.plan.planned_steps)
        ends, decays_from = self.course.num_steps, self.course.decays_from
        factor = learning_rate_factor(self.done, ends, training.schedule, warmup, decays_from)
        set_learning_rates(self.optimizer, factor)
        torch.manual_seed(digest(self.job.seed, "step", self.done, parallel.rank))  # dropout's
        self.model.train()
        loss = torch.zeros((), device=self.model.device)
        for number, (batch, weight) in enumerate(batches):
            moved = batch.to(self.model.device)
            with parallel.accumulating(self.wrapped, last=number + 1 == len(batches)):
                with autocast(self.model.device, self.model.dtype):
                    part = self.wrapped(moved) * (weight / num_targets)
                self.scaler.scale(part * parallel.size).backward()
            loss += part.detach()
            self.speed.add(moved)
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_gradients(self.trained, training.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(parallel.total(loss), num_targets, grad_norm)

    def log_step(self, step: Step, grad_norm: Tensor) -> None:
        """Lines of the log that are due. Only here, and where the state is saved, is a GPU waited for."""
        done, num_steps = self.done, self.course.num_steps
        if done % self.job.training.log_every == 0 or self.may_end():
            loss, count = self.losses.take("window")
            rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
            self.log.write(
                "train",
                done,
                epoch=step.epoch,
                loss=loss,
                lr=next(iter(rates.values())),
                learning_rates=rates,
                grad_norm=float(grad_norm),
                **{self.counted: count},
                **self.losses.take_figures(),
                **self.tally.shares(),
            )
            self.tally = Tally()
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {done}; lower curriculum.*.lr, or train in bfloat16")
            speed = self.speed.take()
            self.log.write_speed(done, **speed)
            self.job.show(done, num_steps, f"loss {loss:.3f}, {speed['tokens_per_s']:.0f} tokens/s")
        if step.ends_epoch:
            self.log.write("epoch", done, epoch=step.epoch, loss=self.losses.take("epoch")[0])

    def log_epoch_cut_short(self) -> None:
        """The line of the last epoch, where the stage ends within it: validation may have said so only now."""
        loss, count = self.losses.take("epoch")
        if count:
            self.log.write("epoch", self.done, epoch=int(self.plan.epochs_done(self.done)), loss=loss)

    def save(self) -> None:
        """Write a resumable state; the first process does, or of shards each its own."""
        with self.speed.paused():
            position = Position(self.done, self.losses.state(), self.scaler.state_dict(), self.log.sync())
            if not all(math.isfinite(total) for total, _ in position.sums.values()):
                raise UserError(
                    f"the loss is not finite by step {self.done}; lower curriculum.*.lr, or train in bfloat16"
                )
            tensors, moments, parallel = trained_parts(self.model), collect_moments(self.optimizer), self.job.parallel
            save_state(self.job.scratch, position, tensors, moments, self.job.training.keep_states, parallel)
            parallel.wait()
            self.saved = self.done

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Positions of each sequence that a step of these examples trains on."""
        data = self.job.train
        return data.lengths(examples, data.prompts(examples), self.num_tokens)

    def may_end(self) -> bool:
        """Whether this step is the last one, or will be if validation says so: without a decay it ends the stage."""
        undecayed = self.course.decays_from == self.course.num_steps
        return self.done == self.course.num_steps or (undecayed and self.validates())

    def validates(self) -> bool:
        """Whether validation is due now."""
        return self.plan.validates_after(self.done) or self.done == self.course.num_steps

    def validate_where_due(self) -> None:
        """Validate where it is due and has not been done; what is found may change how long the stage is."""
        job, done = self.job, self.done
        if not self.validates() or any(line["step"] == done for line in self.log.validations()):
            return
        with self.speed.paused():
            found = self.validate()
            self.log.write("validation", done, epochs=self.plan.epochs_done(done), **found)
            for kind, values in found.items():
                listed = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
                job.say(f"{VALIDATION[kind]} after step {done}: {listed}")
            history = [value for *_, value in self.history()][1:]
            if history and history[-1] < min(history[:-1], default=math.inf):
                job.save_best(trained_tensors(self.model), found["loss"], self.done)
        before, self.course = self.course, self.follow()
        if self.course != before:
            at = f"after step {self.course.num_steps} of at most {self.plan.num_steps}"
            job.say(f"validation loss no longer improves: the learning rate decays, and the stage ends {at}")

    def validate(self) -> dict[str, dict[str, float]]:
        """The validation loss of every combination, and what else is asked of the model."""
        job = self.job
        losses = validate(self.model, job.validation, job.stage, job.training, self.num_tokens, job.seed, job.parallel)
        return {"loss": losses}

    def history(self) -> list[tuple[int, float, float]]:
        """Of each validation, the steps and epochs done and the objective; the first is from before training."""
        stage = self.job.stage
        return [(line["step"], line["epochs"], validation_objective(stage, line)) for line in self.log.validations()]

    def follow(self) -> Course:
        """The stage's course, as its log so far has it."""
        return course(self.job.stage, self.job.training.schedule, self.plan.num_steps, self.history())

    def figures(self) -> dict[str, Any]:
        """Steps, samples, target tokens, combinations meant and shown, parameters, validation losses."""
        shown = Tally()
        for step, _ in zip(self.plan.steps(), range(self.done)):
            shown.add(step, expected_shares(self.job.stage, step.progress))
        _, best_epoch, best_objective = min(self.history()[1:], key=lambda each: each[2])
        return {
            "steps": self.done,
            "epochs": self.plan.epochs_done(self.done),
            "trainable_parameters": sum(p.numel() for p in self.trained),
            "parameter_groups": self.parameter_groups(),
            "validation": self.log.validations()[-1]["loss"],
            "best_objective": best_objective,
            "best_epoch": best_epoch,
            "projector_lr_factors": self.factors,
            "samples_shown": shown.samples,
            "target_tokens": shown.targets,
            **shown.shares(),
        }

    def parameter_groups(self) -> dict[str, dict[str, float]]:
        """Of each kind of trained part, how many parameters it has, and the highest rate at which they learn."""
        found: dict[str, dict[str, float]] = {}
        for group in self.optimizer.param_groups:
            size = sum(p.numel() for p in group["params"])
            kind = found.setdefault(group["name"], {"parameters": 0, "lr": group["base_lr"]})
            kind["parameters"] += size
        return found


def free_trained_parts(
    model: CadMllmModel, stage: CurriculumStage, training: Training, text_ids: set[int], device: torch.device
) -> None:
    """Choose what the stage trains, and how it is computed on the device that the model will be on.

    Args:
        text_ids: for ``text_embeddings: all``, tokens whose rows are trained besides those that the model has already.
    """
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if training.gradient_checkpointing:
        model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    if training.compile:
        for layer in model.causal_lm.model.layers:
            layer.compile(dynamic=True)
    model.set_trainable_params(stage.train_llm, stage.trained_projectors, stage.text_embeddings, text_ids)


def load_steps(
    steps: Iterator[Step], data: TrainingData, tokens_per_batch: int, num_tokens: dict[str, int], parallel: Parallel
) -> Iterator[tuple[Step, list[tuple[Batch, float]]]]:
    """Each step with what this process computes of it: batches and their weight."""
    if parallel.device.type == "cuda":
        torch.cuda.set_device(parallel.device)  # in the thread that works ahead, which would begin with the first GPU
    for step in steps:
        mine = data.batches(step.examples, tokens_per_batch, num_tokens, parallel.rank, parallel.size)
        yield step, [(batch.pin() if parallel.device.type == "cuda" else batch, weight) for batch, weight in mine]
