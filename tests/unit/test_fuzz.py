"""Readers of foreign bytes, given what strangers may send: each says what is wrong, in seconds and little memory.

``CADMLLM_FUZZ`` is how many inputs each reader gets; `make fuzz` gives it thousands.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.runtime.errors import RejectError, UserError
from tests.unit import hostile
from tests.unit.readers import readers

INPUTS = int(os.environ.get("CADMLLM_FUZZ", "12"))
FUZZED = settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize="CADMLLM_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NAMES = tuple(readers())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_readers_say_what_is_wrong(name):
    reader = readers()[name]
    inputs = hostile.mutated(reader.originals)
    if reader.documents:
        inputs = st.one_of(inputs, hostile.documents(reader.documents))

    @FUZZED
    @given(inputs)
    def read(data):
        folder = Path(tempfile.mkdtemp())
        try:
            with hostile.bounded():
                reader.read(data, folder)
        except (UserError, RejectError) as error:
            assert str(error)
        finally:
            shutil.rmtree(folder)

    read()
