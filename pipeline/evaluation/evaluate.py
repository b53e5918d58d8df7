"""The evaluate stage: validation loss, and test models generated, built and measured, for every combination."""

import base64
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.solids.distances import chamfer
from pipeline.cad.solids.mesh import Surface
from pipeline.cad.solids.sandbox import Failure, Sandbox
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.plan import Example
from pipeline.curriculum.schedule import draw_views
from pipeline.generation.decoding import Decoding
from pipeline.generation.generate import generate_tokens, score
from pipeline.generation.select import build_candidate, select
from pipeline.geometry.draw import sample_seed
from pipeline.metrics.assess import AssessTask, assess
from pipeline.metrics.geometry import no_answer_metrics
from pipeline.metrics.sequence import sequence_accuracy
from pipeline.metrics.statistics import COMPLETION, summarise
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import write_text
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.seeds import shuffled
from pipeline.settings.curriculum import MODALITIES, CurriculumStage
from pipeline.settings.data import Kernel
from pipeline.settings.params import Evaluation
from pipeline.settings.training import Training
from pipeline.shards.reader import ShardReader
from pipeline.training.parallel import Parallel
from pipeline.training.validation import validate

GENERATED = "generated.jsonl"
PICTURE_SIZE = 224
CONDITIONING_METRIC = "chamfer_l1_mean"
MAX_TRIANGLES = 3000  # of a solid that can be turned in the report: some 40 kB of text


@dataclass(frozen=True, slots=True)
class Setting:
    """The parameters that an evaluation depends on, besides the model."""

    stage: CurriculumStage
    training: Training
    evaluation: Evaluation
    kernel: Kernel
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """One test model, as it is shown and measured.

    Attributes:
        row: of the test data.
        inputs: the prompt, with the start of the program where it is to be completed.
        cloud: what the model is shown, (N, 6), or None.
        true_points: (N, 6) on the true surface.
    """

    row: int
    inputs: Inputs
    cloud: np.ndarray | None
    true_points: np.ndarray


class Evaluator:
    """Generates for test models and measures what was written. Its workers stay until the ``with`` block ends.

    Args:
        geometry: true clouds and views of the corpus.
        folder: pictures and finished results go there; what is finished is not done again.

    Attributes:
        rows: of the test models in ``test``; ``drawn`` has those in ``geometry``.
        views: that each is shown by.

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
        num_workers: int,
    ) -> None:
        self.model, self.test, self.geometry, self.setting, self.folder = model, test, geometry, setting, folder
        self.num_workers = num_workers
        limits = num_workers, setting.kernel.timeout_s, setting.kernel.memory_mib
        self.builders, self.assessors = Sandbox(build_candidate, *limits), Sandbox(assess, *limits)
        places = geometry.find(test.corpus.index["key"][test.rows])
        order = shuffled(test.names, setting.seed, "test")
        self.rows: list[int] = order[places[order] >= 0][: setting.evaluation.num_test_models].tolist()
        if not self.rows:
            raise UserError("the test split is empty: raise data.split.test, or take more models")
        self.drawn = {row: int(places[row]) for row in self.rows}
        self.clouds = {row: geometry.array(drawn, "points.npy") for row, drawn in self.drawn.items()}
        num_views, shown = model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample
        views = draw_views(num_views, shown, setting.seed, -1, test.names[self.rows])
        self.views = dict(zip(self.rows, views, strict=True))
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for sandbox in (self.builders, self.assessors):
            sandbox.__exit__(*raised)

    def cases(self, combination: str) -> list[Case]:
        """Every test model, shown by a combination."""
        views = self.views if "image" in combination else dict.fromkeys(self.rows, ())
        examples = [Example(row, combination, views[row], 0) for row in self.rows]
        found = []
        for row, inputs in zip(self.rows, self.test.load(examples, with_programs=False), strict=True):
            cloud = self.clouds[row] if "point_cloud" in combination else None
            found.append(Case(row, inputs, cloud, self.clouds[row]))
        return found

    def completions(self, combination: str) -> list[Case]:
        """Test models of several extrusions, with the first half of these given."""
        found = []
        for case in self.cases(combination):
            tokens = self.test.program(case.row).tolist()
            begins = [at for at, token in enumerate(tokens) if self.model.grammar.starts_extrude(token)]
            if len(begins) > 1:
                start = self.test.notation.start(tokens[: begins[len(begins) // 2]])
                inputs = replace(case.inputs, program=start)
                found.append(replace(case, inputs=inputs))
        return found

    def swapped(self, combination: str, modality: str) -> list[Case]:
        """Every test model, shown by a combination, but with another test model's input of one modality."""
        cases = self.cases(combination)
        found = []
        for case, other in zip(cases, [*cases[1:], *cases[:1]], strict=True):
            if modality == "text":
                inputs, cloud = replace(case.inputs, prompt=other.inputs.prompt), case.cloud
            elif modality == "point_cloud":
                inputs, cloud = replace(case.inputs, points=other.inputs.points), other.cloud
            else:
                inputs, cloud = replace(case.inputs, image=other.inputs.image, views=other.inputs.views), case.cloud
            found.append(replace(case, inputs=inputs, cloud=cloud))
        return found

    def measure(self, name: str, cases: list[Case], pictures: bool = True) -> list[dict[str, Any]]:
        """Generate for all cases and measure; lines of ``generated.jsonl``.

        Args:
            name: of this set of cases: a combination, or what else makes it different.
            pictures: also pictures, meshes and topology, for the report.
        """
        found: list[dict[str, Any]] = self._kept(
            name, lambda: self._assess(name, cases, self._generate(cases), pictures)
        )
        return found

    def syntax(self, cases: Sequence[Case]) -> float:
        """The share of cases for which the model writes a well-formed program with nothing to hold it to the grammar.

        Greedy, within the same budget: a program that does not end is none. Nothing is built.
        """
        rate: float = self._kept("syntax", lambda: self._well_formed(cases))
        return rate

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What the folder has under a name; if it has nothing yet, it is made and kept there."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make()))
        return json.loads(path.read_text(encoding="utf-8"))

    def _well_formed(self, cases: Sequence[Case]) -> float:
        free = Decoding(self.setting.evaluation.max_new_tokens, constrained=False)
        written = [
            own[0]
            for _, batch in self._batches(cases)
            for own in generate_tokens(self.model, [case.inputs for case in batch], free)
        ]
        return sum(_parsed(tokens, self.model.grammar.bits) is not None for tokens in written) / len(written)

    def _batches(self, cases: Sequence[Case]) -> Iterator[tuple[int, Sequence[Case]]]:
        """Cases that are decoded together, each time with the number of those before."""
        size = self.setting.evaluation.batch_size
        for start in range(0, len(cases), size):
            interrupt.check()
            yield start, cases[start : start + size]

    def _generate(self, cases: list[Case]) -> list[tuple[int, ...]]:
        """The chosen program for each case."""
        limits = self.setting.evaluation
        greedy = Decoding(limits.max_new_tokens)
        found: list[tuple[int, ...]] = []
        bits = self.model.grammar.bits
        for start, batch in self._batches(cases):
            prompts = [case.inputs for case in batch]
            programs = generate_tokens(self.model, prompts, greedy)
            if limits.num_candidates > 1:
                more = Decoding(
                    limits.max_new_tokens,
                    limits.num_candidates - 1,
                    limits.temperature,
                    seed=self.setting.seed + start,
                )
                sampled = generate_tokens(self.model, prompts, more)
                programs = [[*own, *others] for own, others in zip(programs, sampled)]
                likelihoods = [score(self.model, p, own) for p, own in zip(prompts, programs)]
                clouds = [None if case.cloud is None else case.cloud[: limits.num_points] for case in batch]
                found += [best[0].tokens for best in select(programs, likelihoods, clouds, bits, self.builders)]
            else:
                found += [tuple(own[0]) for own in programs]
        return found

    def _assess(
        self, name: str, cases: list[Case], programs: Sequence[tuple[int, ...]], pictures: bool
    ) -> list[dict[str, Any]]:
        tasks = [
            AssessTask(
                tokens,
                tuple(self.test.program(case.row).tolist()),
                self.model.grammar.bits,
                case.true_points,
                self.setting.evaluation.num_points,
                sample_seed(self.setting.seed, self.test.key(case.row)),
                PICTURE_SIZE if pictures else None,
            )
            for case, tokens in zip(cases, programs, strict=True)
        ]
        answers = self.assessors.map(tasks)
        return [self._result(name, *each, pictures) for each in zip(cases, tasks, answers, strict=True)]

    def _result(
        self, name: str, case: Case, task: AssessTask, answer: dict[str, Any] | Failure, pictures: bool
    ) -> dict[str, Any]:
        """One line of ``generated.jsonl``; the picture goes beside it."""
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
            (self.folder / f"{key}.{name}.png").write_bytes(answer["picture"])
            result["mesh"], result["true_mesh"] = packed(answer["body"]), packed(answer["true_body"])
            result["volume"] = answer["volume"]
        result |= {"metrics": answer["metrics"], "valid": answer["watertight"]}
        return result if result["valid"] else {**result, "reason": "not_watertight"}

    def finish(self, names: Sequence[str]) -> None:
        """Write all results to one file, the true pictures and shown views beside it; the parts go."""
        for row in self.rows:
            key = self.test.key(row)
            shown = [("true", 0)]
            if "image" in self.model.feature_shapes:
                shown += [(f"view{number}", view) for number, view in enumerate(self.views[row])]
            for name, view in shown:
                picture = self.geometry.bytes(self.drawn[row], f"view{view}.png")
                (self.folder / f"{key}.{name}.png").write_bytes(picture)
        lines = [line for name in names for line in json.loads((self.folder / f"{name}.json").read_text("utf-8"))]
        write_text(self.folder / GENERATED, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
        for part in self.folder.glob("*.json"):
            part.unlink()


def evaluate(
    evaluator: Evaluator, validation: TrainingData, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Measure a model; generated programs and pictures are written to the evaluator's folder.

    Returns:
        Figures for each combination; those of completing programs; how far off a program is with another model's
        input; what share is well-formed without the grammar, of the first combination; and between which bounds
        chamfer distances lie.
    """
    model, setting = evaluator.model, evaluator.setting
    stage, limits = setting.stage, setting.evaluation
    parallel = Parallel(setting.training)
    losses = validate(model, validation, stage, setting.training, model.num_tokens(), setting.seed, parallel)
    names = list(stage.combinations)
    conditions = conditioning_cases(stage.combinations) if limits.conditioning and len(evaluator.rows) > 1 else {}
    total = len(names) + len(conditions) + int(limits.completion) + 1
    figures: dict[str, Any] = {}
    for number, combination in enumerate(stage.combinations):
        progress(number, total, f"generating from {combination}")
        results = evaluator.measure(combination, evaluator.cases(combination))
        figures[combination] = {"validation_loss": losses[combination], **summarise(results)}
    found: dict[str, Any] = {"combinations": figures}
    if conditions:
        found["conditioning"] = {}
    for number, (modality, combination) in enumerate(conditions.items(), len(names)):
        progress(number, total, f"generating from {combination} with another model's {modality}")
        results = evaluator.measure(f"{combination}-other-{modality}", evaluator.swapped(combination, modality), False)
        right = figures[combination]["metrics"][CONDITIONING_METRIC]["median"]
        other = statistics.median(result["metrics"][CONDITIONING_METRIC] for result in results)
        ratio = right / other if other > 0 else None
        found["conditioning"][modality] = {"combination": combination, "right": right, "other": other, "ratio": ratio}
    if limits.completion:
        progress(total - 2, total, f"completing from {names[-1]}")
        results = evaluator.measure(COMPLETION, evaluator.completions(names[-1]))
        if results:
            found[COMPLETION] = {"combination": names[-1], **summarise(results)}
        names.append(COMPLETION)
    progress(total - 1, total, f"generating from {names[0]} without the grammar")
    found["syntax"] = {"combination": names[0], "well_formed_rate": evaluator.syntax(evaluator.cases(names[0]))}
    evaluator.finish(names)
    progress(total, total, "solids built and measured")
    return {**found, "chamfer_l1_mean_bounds": bounds(list(evaluator.clouds.values()), limits.num_points)}


def conditioning_cases(combinations: Sequence[str]) -> dict[str, str]:
    """For each modality that is shown the combination in which it is exchanged."""
    found = {modality: shown_by(combinations, modality) for modality in MODALITIES}
    return {modality: combination for modality, combination in found.items() if combination is not None}


def shown_by(combinations: Sequence[str], modality: str) -> str | None:
    """The combination by which a modality is tried: with the caption, or alone."""
    return next((c for c in combinations if c in (f"text+{modality}", modality)), None)


def _parsed(tokens: Sequence[int], bits: int) -> CadProgram | None:
    try:
        return Codec(bits).decode(tokens)
    except RejectError:
        return None


def packed(surface: Surface) -> dict[str, str] | None:
    """A mesh as text for the report's viewer: base64 of int16 positions in 1/8192 and of uint32 indices, little-endian.

    None for one that would make the page large.
    """
    if len(surface.triangles) > MAX_TRIANGLES:
        return None
    steps = np.clip(np.round(surface.vertices * 8192), -32767, 32767).astype("<i2")
    indices = surface.triangles.astype("<u4")
    return {
        "positions": base64.b64encode(steps.tobytes()).decode(),
        "indices": base64.b64encode(indices.tobytes()).decode(),
    }


def bounds(clouds: list[np.ndarray], num_points: int) -> dict[str, float]:
    """What a chamfer distance can be here, as medians over test models.

    Returns:
        ``floor``: a model to itself, two drawings of ``num_points`` points; ``chance``: a model to the next one,
        which is what ignoring the input would give.
    """
    rng = np.random.default_rng(0)
    drawn = [cloud[rng.permutation(len(cloud)), :3] for cloud in clouds]
    first = [cloud[:num_points] for cloud in drawn]
    second = [cloud[-num_points:] for cloud in drawn]
    own = [chamfer(a, b)["chamfer_l1_mean"] for a, b in zip(first, second, strict=True)]
    other = [chamfer(a, second[(i + 1) % len(second)])["chamfer_l1_mean"] for i, a in enumerate(first)]
    return {"floor": statistics.median(own), "chance": statistics.median(other)}
