"""Validation loss of every modality combination: the same samples and views each time, dropout off."""

from contextlib import closing

import torch

from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.plan import Example, shown
from pipeline.curriculum.schedule import draw_views
from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.runtime import interrupt
from pipeline.runtime.device import autocast
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.seeds import shuffled
from pipeline.training.parallel import Parallel


@torch.no_grad()
def validate(
    model: CadMllmModel,
    data: TrainingData,
    stage: CurriculumStage,
    training: Training,
    num_tokens: dict[str, int],
    seed: int,
    parallel: Parallel,
) -> dict[str, float]:
    """Mean loss over target tokens for every combination that is asked of the model.

    Raises:
        UserError: there is nothing to validate on.
        Interrupted: a stop was asked for.
    """
    model.eval()
    losses = {}
    for combination, examples in validation_examples(model, data, stage, training, seed).items():
        batches = prefetch(data.batches(examples, training.tokens_per_batch, num_tokens, parallel.rank, parallel.size))
        total = torch.zeros((), dtype=torch.float64, device=model.device)
        with closing(batches):
            for batch, weight in batches:
                if parallel.any(interrupt.requested()):
                    interrupt.stop()
                with autocast(model.device, model.dtype):
                    total += model(batch.to(model.device)).double() * weight
        losses[combination] = float(parallel.total(total)) / sum(e.num_targets for e in examples)
    return losses


def validation_examples(
    model: CadMllmModel, data: TrainingData, stage: CurriculumStage, training: Training, seed: int
) -> dict[str, list[Example]]:
    """The samples that are validated on, as every combination that is asked of the model shows them.

    Raises:
        UserError: there is none.
    """
    if not len(data):
        raise UserError("the validation split has no sample; raise data.split.validation")
    rows = shuffled(data.names, seed, "validation")[: training.max_validation_samples]
    num_views = model.feature_shapes.get("image", (0,))[0]
    views = draw_views(num_views, model.params.views_per_sample, seed, -1, data.names[rows])
    num_targets = data.num_targets(rows)
    return {name: shown(rows, [name] * len(rows), views, num_targets) for name in stage.combinations}
