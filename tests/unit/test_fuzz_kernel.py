"""The CAD kernel, given what strangers may send: whatever it does, it does in a process that can be killed."""

from collections import Counter

import pytest
from hypothesis import given, settings

from pipeline.cad.exchange.files import ConvertTask, convert
from pipeline.cad.exchange.scans import SampleTask, sample_step
from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad import documents
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.runtime.errors import RejectError
from pipeline.serving.tasks import ShapeTask, work
from tests.unit import hostile
from tests.unit.readers import json_documents, programs
from tests.unit.test_fuzz import FUZZED, INPUTS

TIMEOUT_S, MEMORY_MIB = 20.0, 1024


def told(outcomes, name):
    """With many inputs: how each ended."""
    if INPUTS > 100:
        print(f"\n{name}: {dict(outcomes)}")


def outcome(result, outcomes):
    reason = result.reason if isinstance(result, Failure) else "read"
    outcomes[reason] += 1
    assert reason != "read" or not isinstance(result, Failure)
    assert reason.replace("_", "").isalpha(), result


@pytest.mark.slow
def test_step_files_end_in_a_result_or_a_reason(tmp_path):
    originals = []
    for number, program in enumerate(programs()):
        convert(ConvertTask(program, tmp_path / f"{number}.step"))
        originals.append((tmp_path / f"{number}.step").read_bytes())
    outcomes = Counter()
    path = tmp_path / "x.step"
    with Sandbox(sample_step, 1, TIMEOUT_S, MEMORY_MIB) as sandbox:

        @settings(FUZZED, max_examples=min(INPUTS, 600))
        @given(hostile.mutated(originals))
        def read(data):
            path.write_bytes(data)
            outcome(next(sandbox.map([SampleTask(path, 64)])), outcomes)

        read()
        path.write_bytes(originals[0])
        assert not isinstance(next(sandbox.map([SampleTask(path, 64)])), Failure), "the next file is read as ever"
    told(outcomes, "STEP")


@pytest.mark.slow
def test_programs_end_in_a_solid_or_a_reason():
    outcomes = Counter()
    with Sandbox(work, 1, TIMEOUT_S, MEMORY_MIB) as sandbox:

        @settings(FUZZED, max_examples=min(INPUTS, 600))
        @given(hostile.documents(json_documents()))
        def build(data):
            try:
                program = documents.loads(data)
            except RejectError as error:
                outcomes[error.reason] += 1
                return
            assert isinstance(program, CadProgram)
            outcome(next(sandbox.map([ShapeTask(program)])), outcomes)

        build()
    told(outcomes, "programs")
