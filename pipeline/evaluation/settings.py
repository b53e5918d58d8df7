"""The sections `evaluation`, `robustness` and `transfer` of params.yaml."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.section import Positive, Section


class Evaluation(Section):
    """What is measured after each stage."""

    num_test_models: Positive = Field(description="test models that are generated, for each combination")
    max_new_tokens: Annotated[int, Field(ge=16)]
    batch_size: Positive
    num_points: Annotated[int, Field(ge=16)] = Field(description="points of each side of a chamfer distance")
    num_candidates: Positive = Field(description="programs for each prompt, of which the best by its input is kept")
    temperature: Annotated[float, Field(gt=0)] = Field(description="of all candidates but the first, which is greedy")
    search_builds: Annotated[int, Field(ge=0)] = Field(
        description="programs that search judges, at most, to improve each that a cloud is shown for; 0: no search"
    )
    completion: bool = Field(description="also complete the first half of test programs")
    conditioning: bool = Field(description="also generate from another test model's caption, points, images")


class Robustness(Section):
    """Worse inputs, tried on the last stage. Lists may be empty."""

    noise: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="standard deviation of Gaussian noise on points, in the normalised frame"
    )
    dropped: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(description="share of the points left out")
    rotations_deg: tuple[float, ...] = Field(description="turns of the part about z before it is seen")


class Transfer(Section):
    """Real models that nothing is trained on, tried on the last stage."""

    path: str = Field(
        description="Omni-CAD, or the folder that it is in; without one nothing is measured (DVC watches it)"
    )
    limit: Positive = Field(description="take only so many entries, in order of id")
    num_test_models: Positive = Field(description="of these are generated, for each combination")
