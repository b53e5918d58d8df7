"""The trained model: projectors, CAD vocabulary, language model."""

import logging

# PEFT imports bitsandbytes wherever it is installed, which then warns on some processors that a package for faster
# inference is absent: nothing that training uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
