"""What is counted while a stage trains: loss over target tokens, what was shown, and how fast it went."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.curriculum.plan import Step
from pipeline.model.cad_mllm import Batch, CadMllmModel
from pipeline.runtime.device import matrix_flops, peak_memory

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one optimizer step.

    Attributes:
        loss: a scalar on the device.
        count: what it is the mean over: target tokens, or programs.
        grad_norm: before clipping.
        figures: further means over as many, by name.
    """

    loss: Tensor
    count: int
    grad_norm: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)


class RunningLoss:
    """Sums of the loss since the last line of the log, and since the epoch began; of further figures since that line.

    They stay on the device: reading one waits for it.
    """

    def __init__(self, sums: Mapping[str, list[float]], device: torch.device) -> None:
        given = sums or {"window": [0.0, 0], "epoch": [0.0, 0]}
        self._sums = {
            name: (torch.tensor(total, dtype=torch.float64, device=device), int(count))
            for name, (total, count) in given.items()
        }

    def add(self, outcome: Outcome) -> None:
        """Count a step."""
        loss = outcome.loss.double()
        means: dict[str, Any] = {"window": loss, "epoch": loss, **outcome.figures}
        for name, mean in means.items():
            total, count = self._sums.get(name, (torch.zeros_like(loss), 0))
            self._sums[name] = (total + mean * outcome.count, count + outcome.count)

    def take(self, name: str) -> tuple[float, int]:
        """The mean and what it is over; begins anew."""
        total, count = self._sums[name]
        self._sums[name] = (torch.zeros_like(total), 0)
        return float(total) / max(1, count), count

    def take_figures(self) -> dict[str, float]:
        """The means of what is no loss; they begin anew."""
        return {name: self.take(name)[0] for name in self._sums if name not in ("window", "epoch")}

    def state(self) -> dict[str, list[float]]:
        """Plain numbers to begin with again; waits for the device."""
        return {name: [float(total), count] for name, (total, count) in self._sums.items()}


class Tally:
    """What was shown, next to what was meant to be."""

    def __init__(self) -> None:
        self.samples = self.targets = 0
        self.shown: defaultdict[str, float] = defaultdict(float)
        self.learnt: defaultdict[str, float] = defaultdict(float)
        self.meant: defaultdict[str, float] = defaultdict(float)

    def add(self, step: Step, expected: Mapping[str, float]) -> None:
        """Count a step, and the share of samples that each combination was meant to have in it."""
        examples = step.examples
        self.samples += len(examples)
        self.targets += step.num_targets
        for example in examples:
            self.shown[example.combination] += 1
            self.learnt[example.combination] += example.num_targets
        for combination, share in expected.items():
            self.meant[combination] += share * len(examples)

    def shares(self) -> dict[str, Any]:
        """Of each combination among samples, as shown and as meant, and among target tokens, which the loss counts."""

        def of(counts: Mapping[str, float], total: int) -> dict[str, float]:
            return {name: round(counts[name] / total, 6) for name in sorted(counts)}

        return {
            "combinations": of(self.shown, self.samples),
            "intended": of(self.meant, self.samples),
            "target_shares": of(self.learnt, self.targets),
        }


class Speed:
    """How fast this process is: tokens per second, time spent waiting for data, MFU.

    MFU is model FLOPs utilisation (Chowdhery et al. 2022), of what the device reaches in square matrix products of the
    frozen weights' dtype, measured when training begins, not of what its maker states.
    """

    def __init__(self, model: CadMllmModel) -> None:
        self._count, self._device = FlopCount(model), model.device
        self._reached = matrix_flops(model.device, model.dtype)
        self._window, self._all = _Counts(), _Counts()

    def add(self, batch: Batch) -> None:
        """Count a batch; nothing is waited for."""
        for counts in (self._window, self._all):
            counts.tokens += batch.num_tokens
            counts.samples += len(batch.lengths)
            counts.flops += self._count(batch)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for data."""
        started = time.perf_counter()
        yield
        for counts in (self._window, self._all):
            counts.waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training: validation, saving."""
        started = time.perf_counter()
        yield
        for counts in (self._window, self._all):
            counts.started += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Since it was last taken; begins anew."""
        window, self._window = self._window, _Counts()
        return self._figures(window)

    def _figures(self, counts: "_Counts") -> dict[str, float]:
        elapsed = max(1e-9, time.perf_counter() - counts.started)
        return {
            "tokens_per_s": round(counts.tokens / elapsed, 3),
            "samples_per_s": round(counts.samples / elapsed, 4),
            "data_wait_share": round(counts.waited / elapsed, 5),
            "mfu": round(counts.flops / elapsed / self._reached, 4),
            "peak_memory_gib": round(peak_memory(self._device) / GIB, 3),
        }

    def summary(self) -> str:
        """The whole run in a line."""
        figures = self._figures(self._all)
        return (
            f"{figures['tokens_per_s']:.0f} tokens/s, MFU {figures['mfu']:.0%}, "
            f"{figures['data_wait_share']:.1%} waiting for data, {figures['peak_memory_gib']:.2f} GiB at most"
        )


class _Counts:
    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.tokens = self.samples = 0
        self.waited = self.flops = 0.0


class FlopCount:
    """Operations of the forward and backward pass for a batch, from its lengths alone.

    As MFU counts them: padding and recomputation left out.

    A frozen matrix costs 4 for each weight and token (forward, and the gradient of its input), a trained one 6.
    Causal attention counts half the square of the length, forward once and backward twice.
    """

    def __init__(self, model: CadMllmModel) -> None:
        config = model.causal_lm.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        frozen, adapters = decoder_weights(model)
        self.per_token = 4.0 * frozen + 6.0 * adapters
        self.per_square = 3.0 * 2 * config.num_hidden_layers * config.num_attention_heads * head_dim
        self.per_target = 6.0 * float(model.causal_lm.get_output_embeddings().weight.numel())
        # A projector's input needs no gradient.
        self.per_feature = {
            modality: 4.0 * sum(p.numel() for p in projector.parameters() if p.ndim > 1)
            for modality, projector in model.projectors.items()
        }

    def __call__(self, batch: Batch) -> float:
        total: float = self.per_token * batch.num_tokens + self.per_square * sum(length**2 for length in batch.lengths)
        total += self.per_target * len(batch.targets)
        for modality, shown in (("point_cloud", batch.points), ("image", batch.images)):
            if shown is not None:
                total += self.per_feature[modality] * shown[..., 0].numel()
        return total


def decoder_weights(model: CadMllmModel) -> tuple[int, int]:
    """Weights in the frozen matrices of the decoder layers, and in LoRA's."""
    frozen = adapters = 0
    for name, module in model.causal_lm.model.named_modules():
        # PEFT's wrapper has the sizes too, around a matrix that is counted itself.
        if hasattr(module, "in_features") and not hasattr(module, "base_layer"):
            size = int(module.in_features) * int(module.out_features)
            if "lora_" in name:
                adapters += size
            else:
                frozen += size
    return frozen, adapters
