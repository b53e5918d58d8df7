"""What generates for test models, and has what was written built and measured."""

import base64
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.solids.settings import Kernel
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.evaluation.cases import Case, Cases
from pipeline.evaluation.lines import published
from pipeline.evaluation.settings import Evaluation
from pipeline.execution.pool import Failure
from pipeline.execution.workers import Job, Workers
from pipeline.generation.likelihood import score
from pipeline.generation.search.search import improved
from pipeline.generation.select import build_candidate, select
from pipeline.metrics.assess import AssessTask, assess
from pipeline.metrics.compact import MAX_POINTS, packed, packed_mesh
from pipeline.metrics.geometry import no_answer_metrics
from pipeline.metrics.sequence import sequence_accuracy
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.scratch import clean, keep, kept_or, read_kept
from pipeline.runtime.seeds import digest
from pipeline.shards.reader import ShardReader
from pipeline.training.parallel import Parallel
from pipeline.training.validation import validate

GENERATED = "generated.jsonl"
PARTS = "parts"  # in the folder of an evaluation: its finished batches
PICTURE_SIZE = 224


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters that an evaluation depends on, besides the model."""

    stage: CurriculumStage
    training: Training
    evaluation: Evaluation
    kernel: Kernel
    seed: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """Test models that are shown in one way.

    Attributes:
        name: what is kept and written of them is under it.
        rows: of the test models.
        kind: shown by the combination; with another model's input of ``modality``; completed from their first half;
            ``free``, written with nothing to hold it to the grammar; or with a worse input, so much worse by ``level``.
    """

    name: str
    rows: tuple[int, ...]
    combination: str
    kind: Literal["shown", "swapped", "completed", "free", "noise", "dropped", "rotation"] = "shown"
    modality: str = ""
    level: float = 0.0


Batch = tuple[Measurement, int]  # and how many of its test models come before


class Evaluator:
    """Generates for test models and measures what was written. Its workers stay until the ``with`` block ends.

    Args:
        geometry: true clouds and views of the corpus.
        folder: scratch; what is finished is kept there and not done again.
        elsewhere: gives what makes such an evaluator's ``made`` on a machine of a cluster; None: there is none.

    Attributes:
        rows: of the test models in ``test``.
        cases: how they are shown.
        whole: the folder of all results, once they are there.

    Raises:
        UserError: there is no test model.
    """

    def __init__(
        self,
        model: CadMllmModel,
        test: TrainingData,
        geometry: ShardReader,
        setting: Setting,
        folder: Path,
        workers: Workers,
        elsewhere: Callable[[], Job[Batch, list[Any]]] | None = None,
    ) -> None:
        self.elsewhere = elsewhere
        self.model, self.test, self.geometry, self.setting, self.folder = model, test, geometry, setting, folder
        self.workers, limits = workers, (setting.kernel.timeout_s, setting.kernel.memory_mib)
        self.builders, self.assessors = workers.pool(build_candidate, *limits), workers.pool(assess, *limits)
        self.cases = Cases(model, test, geometry, setting.evaluation, setting.seed)
        self.rows = self.cases.rows
        self.whole = folder / "whole"
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for pool in (self.builders, self.assessors):
            pool.__exit__(*raised)

    def results(self, measurement: Measurement) -> list[Any]:
        """Generate for test models and measure, batch by batch, each of which is kept in scratch.

        Returns:
            Lines of ``generated.jsonl``, with pictures in base64; of kind ``free``, whether each program is
            well-formed.
        """
        found = []
        for start in range(0, len(measurement.rows), self.setting.evaluation.batch_size):
            interrupt.check()
            found += self._kept(self._part(measurement.name, start), functools.partial(self.made, (measurement, start)))
        return found

    def rows_of(self, batch: Batch) -> tuple[int, ...]:
        """Test models that are decoded together."""
        measurement, start = batch
        return measurement.rows[start : start + self.setting.evaluation.batch_size]

    def made(self, batch: Batch) -> list[Any]:
        """The results of one batch."""
        (measurement, start), rows = batch, self.rows_of(batch)
        match measurement.kind:
            case "shown":
                cases = self.cases.shown(measurement.combination, rows)
            case "swapped":
                cases = self.cases.swapped(measurement.combination, measurement.modality, rows)
            case "completed":
                cases = self.cases.completions(measurement.combination, rows)
            case "free":
                return self._well_formed(self.cases.shown(measurement.combination, rows))
        return self.measured(measurement.name, cases, start, pictures=measurement.kind != "swapped")

    def ahead(self, measurements: Sequence[Measurement], progress: Callable[[int, int, str], None]) -> None:
        """Have a cluster, where there is one, make what scratch has not yet of these; ``results`` finds it there."""
        if self.elsewhere is None:
            return
        size, device = self.setting.evaluation.batch_size, self.workers.device(self.setting.training.device)
        batches = [(each, start) for each in measurements for start in range(0, len(each.rows), size)]
        missing = [batch for batch in batches if kept_or(None, self._part(batch[0].name, batch[1])) is None]
        with self.workers.networks(self.made, self.elsewhere(), device) as pool:
            for number, ((measurement, start), made) in enumerate(pool.as_completed(missing), 1):
                interrupt.check()
                if isinstance(made, Failure):
                    raise UserError(f"a batch of {measurement.name} could not be measured: {made.detail}")
                keep(self._part(measurement.name, start), made)
                progress(number, len(missing), f"batches from the cluster, the last of {measurement.name}")

    def measured(self, name: str, cases: list[Case], start: int, pictures: bool) -> list[dict[str, Any]]:
        """Generated for and measured; a disturbance may have left none.

        Args:
            pictures: also pictures, meshes and topology, for the report.
        """
        return self._assess(name, cases, self._searched(cases, start), pictures) if cases else []

    def _well_formed(self, cases: Sequence[Case]) -> list[bool]:
        """For each, whether a program is well-formed that is written without the grammar.

        Greedy, within the same budget: a program that does not end is none. Nothing is built.
        """
        free = Decoding(self.setting.evaluation.max_new_tokens, constrained=False)
        written = [own[0] for own in generate_tokens(self.model, [case.inputs for case in cases], free)]
        return [_parsed(tokens, self.model.grammar.bits) is not None for tokens in written]

    def losses(self, data: TrainingData) -> dict[str, float]:
        """Validation loss for each combination of the stage."""
        model, setting = self.model, self.setting

        def validated() -> dict[str, float]:
            parallel = Parallel(setting.training)
            return validate(model, data, setting.stage, setting.training, model.num_tokens(), setting.seed, parallel)

        return self._kept(self.folder / PARTS / "validation.json", validated)

    def _part(self, name: str, start: int) -> Path:
        return self.folder / PARTS / name / f"{start:06d}.json"

    def _kept(self, path: Path, make: Callable[[], T]) -> T:
        """What scratch has at a path, of plain JSON values; if it has nothing yet, it is made and kept there."""
        if kept_or(None, path) is None:
            keep(path, make())
        found: T = read_kept(path)
        return found

    def _searched(self, cases: Sequence[Case], start: int) -> list[tuple[int, ...]]:
        """The program for each case; those that clouds are shown for after a search, unless their start is given."""
        programs, builds = self._generate(cases, start), self.setting.evaluation.search_builds
        if not builds:
            return programs
        clouds = [None if case.inputs.program else case.cloud for case in cases]
        return improved(programs, clouds, self.model.grammar.bits, builds, self.setting.seed, self.workers)

    def _generate(self, cases: Sequence[Case], start: int) -> list[tuple[int, ...]]:
        """The chosen program for each case of a batch."""
        limits, bits = self.setting.evaluation, self.model.grammar.bits
        prompts = [case.inputs for case in cases]
        programs = generate_tokens(self.model, prompts, Decoding(limits.max_new_tokens))
        if limits.num_candidates == 1:
            return [tuple(own[0]) for own in programs]
        seed = digest(self.setting.seed, "candidates", start)
        more = Decoding(limits.max_new_tokens, limits.num_candidates - 1, limits.temperature, seed=seed)
        sampled = generate_tokens(self.model, prompts, more)
        programs = [[*own, *others] for own, others in zip(programs, sampled)]
        likelihoods = [score(self.model, p, own) for p, own in zip(prompts, programs)]
        shown = [case.pictures if case.cloud is None else case.cloud[: limits.num_points] for case in cases]
        return [best[0].tokens for best in select(programs, likelihoods, shown, bits, self.builders)]

    def _assess(
        self, name: str, cases: Sequence[Case], programs: Sequence[tuple[int, ...]], pictures: bool
    ) -> list[dict[str, Any]]:
        tasks = [
            AssessTask(
                tokens,
                tuple(self.test.program(case.row).tolist()),
                self.model.grammar.bits,
                case.true_points,
                self.setting.evaluation.num_points,
                digest(self.setting.seed, "assessed", self.test.key(case.row)),
                PICTURE_SIZE if pictures else None,
            )
            for case, tokens in zip(cases, programs, strict=True)
        ]
        answers = self.assessors.map(tasks)
        return [self._result(name, *each, pictures) for each in zip(cases, tasks, answers, strict=True)]

    def _result(
        self, name: str, case: Case, task: AssessTask, answer: dict[str, Any] | Failure, pictures: bool
    ) -> dict[str, Any]:
        """One line of ``generated.jsonl``, with its picture."""
        key = self.test.key(case.row)
        predicted, true = _parsed(task.tokens, task.bits), _parsed(task.true_tokens, task.bits)
        assert true is not None, "the corpus holds programs that parse"
        result: dict[str, Any] = {
            "id": self.test.id(case.row),
            "key": key,
            "combination": name,
            "caption": self.test.caption(case.row),
            "views": list(case.inputs.views),
            "tokens": list(task.tokens),
            "true_tokens": list(task.true_tokens),
            "extrusions": len(true.extrudes),
            "parses": predicted is not None,
            "builds": not isinstance(answer, Failure),
            "sequence": sequence_accuracy(predicted, true),
        }
        if isinstance(answer, Failure):
            nothing = no_answer_metrics(case.true_points)
            return {**result, "valid": False, "reason": answer.reason, "detail": answer.detail, "metrics": nothing}
        if pictures:
            result["picture"] = base64.b64encode(answer["picture"]).decode()
            result["mesh"], result["true_mesh"] = packed_mesh(answer["body"]), packed_mesh(answer["true_body"])
            result["errors"] = packed(answer["errors"])
            result["volume"] = answer["volume"]
        result |= {"metrics": answer["metrics"], "valid": answer["watertight"]}
        return result if result["valid"] else {**result, "reason": "not_watertight"}

    def finish(self, results: Mapping[str, list[dict[str, Any]]]) -> None:
        """Write all results, by name, to one file of ``whole``, pictures and shown views beside it.

        The first line of a model also has its ``cloud``, the points that are shown, its ``frame`` and ``true_mesh``.
        A kill costs no batch: what they gave stays in scratch.
        """
        clean(self.whole)
        self.whole.mkdir()
        models = {}
        for row in self.rows:
            key = self.test.key(row)
            frame = self.test.corpus.json(self.test.rows[row])["frame"]
            models[key] = {"cloud": packed(self.cases.clouds[row][:MAX_POINTS, :3]), "frame": frame}
            shown = [("true", 0)]
            if "image" in self.model.feature_shapes:
                shown += [(f"view{number}", view) for number, view in enumerate(self.cases.views[row])]
            for name, view in shown:
                picture = self.geometry.bytes(self.cases.drawn[row], f"view{view}.png")
                (self.whole / f"{key}.{name}.png").write_bytes(picture)
        lines = list(itertools.chain(*results.values()))
        for line in lines:
            if "picture" in line:
                path = self.whole / f"{line['key']}.{line['combination']}.png"
                path.write_bytes(base64.b64decode(line["picture"]))
        with atomic_open(self.whole / GENERATED) as file:
            for line in published(lines, models):
                file.write(json.dumps(line, sort_keys=True) + "\n")


def _parsed(tokens: Sequence[int], bits: int) -> CadProgram | None:
    try:
        return Codec(bits).decode(tokens)
    except RejectError:
        return None
