"""One thin Typer command for each DVC stage, and the ``cadmllm`` app that collects them.

DVC's stages are called pipeline stages, or by their command's name: the ``corpus`` stage. A ``stage`` alone, and every
variable of this name, is one of the curriculum.
"""
