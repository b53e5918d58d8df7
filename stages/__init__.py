"""One thin Typer command for each DVC stage, and the ``cadmllm`` app that collects them."""
