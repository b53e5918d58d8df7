"""One curriculum stage: plan, batch, loss, step, log, validate, save. Read `train_stage` from top to bottom.

The position in training is the optimizer step; the plan, the views and the random numbers of dropout follow
from it, so a run that was interrupted ends with the weights of one that was not.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import interrupt
from pipeline.device import autocast
from pipeline.errors import UserError
from pipeline.model.cad_mllm import CadMllm
from pipeline.params import CurriculumStage, Training
from pipeline.prefetch import prefetch
from pipeline.training.batches import TrainingData
from pipeline.training.checkpoint import load_state, save_state, saved_states
from pipeline.training.curriculum import (
    Example,
    learning_rate_factor,
    pack,
    padding_share,
    plan_stage,
    uniform,
    views_for,
)
from pipeline.training.optimizer import clip_gradients, make_optimizer, set_learning_rates
from pipeline.training.tracking import StageLog


@dataclass(frozen=True, slots=True)
class Progress:
    """What a display shows after an optimizer step."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    seconds_left: float


def train_stage(
    model: CadMllm,
    stage: CurriculumStage,
    training: Training,
    train: TrainingData,
    validation: TrainingData,
    seed: int,
    scratch: Path,
    show: Callable[[Progress], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train one stage in place, resuming from ``scratch`` where it was interrupted.

    Returns:
        Figures of the whole stage: steps, samples, target tokens, padding share, realised combinations, parameters.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
    """
    device = model.device
    num_tokens = model.num_tokens()
    views = (model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample)
    steps = plan_stage(train.keys, train.lengths(num_tokens), stage, training, views, seed)
    optimizer = prepare(model, stage, training)
    trained = [p for group in optimizer.param_groups for p in group["params"]]

    done = 0
    sums: dict[str, list[float]] = {}
    if states := saved_states(scratch):
        done, sums = load_state(states[-1], model, optimizer)
        say(f"resuming after step {done} of {len(steps)} from {states[-1]}")
    log = StageLog(scratch / "log.jsonl", done)
    batches = prefetch(train.batches((micro for _, step in steps[done:] for micro in step), num_tokens))
    precision = autocast(device, model.dtype)
    losses = RunningLoss(sums)
    logged = done - done % training.log_every  # the plan's steps from here on are in the next line of the log
    started, tokens_seen = time.monotonic(), 0

    def validate_and_log(step: int) -> None:
        found = validate(model, validation, stage, training, num_tokens, seed)
        log.write("validation", step, loss=found)
        say("validation " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))

    if done == 0:
        validate_and_log(0)  # where the stage begins: new projectors may raise the loss at first
    for step in range(done, len(steps)):
        epoch, micro_batches = steps[step]
        examples = [example for micro in micro_batches for example in micro]
        num_targets = sum(example.num_targets for example in examples)
        set_learning_rates(
            optimizer, learning_rate_factor(step, len(steps), training.schedule, training.warmup_fraction)
        )
        torch.manual_seed(int(uniform(seed, "step", step) * 2**63))  # dropout follows from the step alone
        model.train()

        loss = torch.zeros((), device=device)
        for _ in micro_batches:
            with precision:
                part = model(next(batches).to(device)) / num_targets  # the mean over the step's target tokens
            part.backward()
            loss += part.detach()
        grad_norm = clip_gradients(trained, training.max_grad_norm)
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {float(loss)} at step {step + 1}; lower curriculum.*.lr or use training.dtype bfloat16"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        tokens_seen += sum(example.length for example in examples)
        losses.add(float(loss), num_targets)
        if (step + 1) % training.log_every == 0 or step + 1 == len(steps):
            mean, window_targets = losses.take("window")
            window = [micro for _, micros in steps[logged : step + 1] for micro in micros]
            logged = step + 1
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            log.write(
                "train",
                step + 1,
                epoch=epoch,
                loss=mean,
                lr=next(iter(rates.values())),
                learning_rates=rates,
                grad_norm=grad_norm,
                num_targets=window_targets,
                padding_share=padding_share(window),
                combinations=combination_shares([example for micro in window for example in micro]),
            )
        elapsed = time.monotonic() - started
        left = elapsed / (step + 1 - done) * (len(steps) - step - 1)
        show(Progress(step + 1, len(steps), float(loss), tokens_seen / elapsed, left))

        if step + 1 == len(steps) or steps[step + 1][0] != epoch:
            log.write("epoch", step + 1, epoch=epoch, loss=losses.take("epoch")[0])
            if (epoch + 1) % training.validate_every_epochs == 0 or step + 1 == len(steps):
                validate_and_log(step + 1)
        if interrupt.requested() or (step + 1) % training.save_every == 0:
            save_state(scratch, step + 1, model, optimizer, losses.sums)
            interrupt.check()

    batches_planned = [micro for _, step in steps for micro in step]
    return {
        "steps": len(steps),
        "samples_shown": sum(len(micro) for micro in batches_planned),
        "target_tokens": sum(example.num_targets for micro in batches_planned for example in micro),
        "padding_share": padding_share(batches_planned),
        "combinations": combination_shares([example for micro in batches_planned for example in micro]),
        "trainable_parameters": sum(p.numel() for p in trained),
    }


def prepare(model: CadMllm, stage: CurriculumStage, training: Training) -> torch.optim.AdamW:
    """Free the parts that the stage trains, and give their optimizer."""
    if model.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    if training.gradient_checkpointing:
        model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    shown = {modality: stage.train_projectors and modality in stage.modalities for modality in model.projectors}
    model.set_trainable_params(stage.train_llm, shown)
    return make_optimizer(model, stage, training)


class RunningLoss:
    """Sums of the loss over target tokens since the last line of the log, and since the epoch began."""

    def __init__(self, sums: dict[str, list[float]]) -> None:
        self.sums = sums or {"window": [0.0, 0], "epoch": [0.0, 0]}

    def add(self, loss: float, tokens: int) -> None:
        for each in self.sums.values():
            each[0] += loss * tokens
            each[1] += tokens

    def take(self, name: str) -> tuple[float, int]:
        """The mean and its number of tokens; begins anew."""
        total, tokens = self.sums[name]
        self.sums[name] = [0.0, 0]
        return total / max(1, tokens), int(tokens)


def combination_shares(examples: Sequence[Example]) -> dict[str, float]:
    """How often each combination was shown."""
    counts = Counter(example.combination for example in examples)
    return {name: counts[name] / len(examples) for name in sorted(counts)}


@torch.inference_mode()
def validate(
    model: CadMllm,
    data: TrainingData,
    stage: CurriculumStage,
    training: Training,
    num_tokens: dict[str, int],
    seed: int,
) -> dict[str, float]:
    """Mean loss over target tokens for every combination that the model has been trained for.

    The same samples and views each time; dropout off.
    """
    model.eval()
    lengths = data.lengths(num_tokens)
    rows = sorted(range(len(data.rows)), key=lambda row: uniform(seed, "validation", data.keys[row]))
    rows = rows[: training.max_validation_samples]
    num_views, shown = model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample
    losses = {}
    for combination in stage.combinations:
        examples = []
        for row in rows:
            views = views_for(num_views, shown, seed, -1, data.keys[row]) if "image" in combination else ()
            examples.append(Example(row, combination, views, lengths.of(row, combination), lengths.programs[row]))
        examples.sort(key=lambda e: e.length)
        plan = pack(examples, training.tokens_per_batch, training.max_batch_size)
        total = torch.zeros((), dtype=torch.float64)
        for batch in prefetch(data.batches(plan, num_tokens)):
            with autocast(model.device, model.dtype):
                total += model(batch.to(model.device)).double().cpu()
        losses[combination] = float(total) / sum(e.num_targets for e in examples)
    return losses
