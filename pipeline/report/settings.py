"""What the report reads of params.yaml."""

from pipeline.corpus.settings import Data
from pipeline.curriculum.settings import CurriculumSections
from pipeline.evaluation.settings import Evaluation, Robustness


class ReportSections(CurriculumSections):
    """What the page tells of."""

    preset: str
    data: Data
    evaluation: Evaluation
    robustness: Robustness
