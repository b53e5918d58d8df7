"""How test models are shown: by a combination of modalities, with another model's input, or begun."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cad.solids.rendering import Pictures
from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.plan import Example
from pipeline.curriculum.schedule import draw_views
from pipeline.evaluation.settings import Evaluation
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import shuffled
from pipeline.shards.pictures import decode_png
from pipeline.shards.reader import ShardReader


@dataclass(frozen=True, slots=True)
class Case:
    """One test model, as it is shown and measured.

    Attributes:
        row: of the test data.
        inputs: the prompt, with the start of the program where it is to be completed.
        cloud: what the model is shown, (N, 6), or None.
        pictures: what several candidates are compared with where pictures are shown, and no cloud.
        true_points: (N, 6) on the true surface.
    """

    row: int
    inputs: Inputs
    cloud: np.ndarray | None
    true_points: np.ndarray
    pictures: Pictures | None = None


class Cases:
    """The test models that are measured, and how each is shown.

    Attributes:
        rows: of the models in ``test``; ``drawn`` has those in ``geometry``.
        clouds: (N, 6) of each; ``views``: that each is shown by.

    Raises:
        UserError: there is no test model.
    """

    def __init__(
        self, model: CadMllmModel, test: TrainingData, geometry: ShardReader, evaluation: Evaluation, seed: int
    ) -> None:
        self.model, self.test, self.geometry, self.num_candidates = model, test, geometry, evaluation.num_candidates
        places = geometry.find(test.corpus.index["key"][test.rows])
        order = shuffled(test.names, seed, "test")
        self.rows: list[int] = order[places[order] >= 0][: evaluation.num_test_models].tolist()
        if not self.rows:
            raise UserError("the test split is empty: raise data.split.test, or take more models")
        self.drawn = {row: int(places[row]) for row in self.rows}
        self.clouds = {row: geometry.array(drawn, "points.npy") for row, drawn in self.drawn.items()}
        num_views, shown = model.feature_shapes.get("image", (0,))[0], model.params.views_per_sample
        views = draw_views(num_views, shown, seed, -1, test.names[self.rows])
        self.views = dict(zip(self.rows, views, strict=True))

    def shown(self, combination: str, rows: Sequence[int]) -> list[Case]:
        """Test models, shown by a combination."""
        views = self.views if "image" in combination else dict.fromkeys(rows, ())
        compared = self.num_candidates > 1 and "image" in combination and "point_cloud" not in combination
        if compared:
            self.geometry.fetch((self.drawn[row], f"view{view}.png", None) for row in rows for view in views[row])
        examples = [Example(row, combination, views[row], 0) for row in rows]
        found = []
        for row, inputs in zip(rows, self.test.load(examples, with_programs=False), strict=True):
            cloud = self.clouds[row] if "point_cloud" in combination else None
            pictures = self._pictures(row) if compared else None
            found.append(Case(row, inputs, cloud, self.clouds[row], pictures))
        return found

    def _pictures(self, row: int) -> Pictures:
        """The views that a test model is shown by."""
        views, drawn = self.views[row], self.drawn[row]
        images = [decode_png(self.geometry.bytes(drawn, f"view{view}.png")).convert("L") for view in views]
        return Pictures.of(images, self.model.feature_shapes["image"][0], views)

    def completable(self) -> list[int]:
        """Test models of several extrusions."""
        return [row for row in self.rows if len(self._begins(row)) > 1]

    def completions(self, combination: str, rows: Sequence[int]) -> list[Case]:
        """Test models of several extrusions, with the first half of these given."""
        found = []
        for case in self.shown(combination, rows):
            begins = self._begins(case.row)
            start = self.test.program(case.row).tolist()[: begins[len(begins) // 2]]
            inputs = replace(case.inputs, program=self.test.notation.start(start))
            found.append(replace(case, inputs=inputs, pictures=None))
        return found

    def _begins(self, row: int) -> list[int]:
        """Where the extrusions of a true program begin."""
        tokens = self.test.program(row).tolist()
        return [at for at, token in enumerate(tokens) if self.model.grammar.starts_extrude(token)]

    def swapped(self, combination: str, modality: str, rows: Sequence[int]) -> list[Case]:
        """Test models, shown by a combination, but with another test model's input of one modality.

        Args:
            rows: some that follow one another among the test models; each is shown the next one's input.
        """
        following = self.rows[(self.rows.index(rows[-1]) + 1) % len(self.rows)]
        found = []
        for case, other in itertools.pairwise(self.shown(combination, [*rows, following])):
            if modality == "text":
                found.append(replace(case, inputs=replace(case.inputs, prompt=other.inputs.prompt)))
            elif modality == "point_cloud":
                inputs = replace(case.inputs, points=other.inputs.points)
                found.append(replace(case, inputs=inputs, cloud=other.cloud))
            else:
                inputs = replace(case.inputs, image=other.inputs.image, views=other.inputs.views)
                found.append(replace(case, inputs=inputs, pictures=other.pictures))
        return found
