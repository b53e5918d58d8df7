"""A Llama decoder without transformers and PEFT, whose imports take longer than it takes to write a part."""
