"""``cadmllm pretrain``: encoders and a language model of the project's own, on synthetic parts."""

import typer

from stages.tools.pretrain.encoders import image_encoder, shape_encoder
from stages.tools.pretrain.language import language_model, reconstruction
from stages.tools.pretrain.ship import ship_all

pretrain = typer.Typer(help="Pretrain encoders and a small language model on synthetic parts.", no_args_is_help=True)
pretrain.command("shape-encoder")(shape_encoder)
pretrain.command("reconstruction")(reconstruction)
pretrain.command("image-encoder")(image_encoder)
pretrain.command("language-model")(language_model)
pretrain.command("ship")(ship_all)
