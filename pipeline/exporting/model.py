"""A checkpoint with all that it needs, as one folder that ``CadMllm.from_pretrained`` loads anywhere.

    adapter_config.json, adapter_model.safetensors   PEFT's, around models/llm
    projectors, vocabulary, text_embeddings          what else was trained
    config.json, lineage.json, tokenizer             as in the checkpoint
    models/                                          the frozen language model and the encoders
    README.md                                        the model card

Where programs are text, the language model's own trained rows are written into ``models/llm``: it and the adapter are
the whole model then, for plain transformers and PEFT.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.exporting.cards import model_card
from pipeline.model.checkpoint import read_tensors
from pipeline.model.checkpoint_folder import (
    ADAPTER,
    CONFIG,
    LINEAGE,
    TEXT_EMBEDDINGS,
    CheckpointConfig,
    check_checkpoint,
    read_json,
)
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.runtime.state_dicts import damage_told
from pipeline.settings.resolved import ENCODERS, MANIFEST, identity, model_sha256, read_models
from pipeline.shards.manifest import MANIFEST as SHARDS
from pipeline.shards.manifest import Manifest

LLM = "llm"


def export_model(
    checkpoint: Path, models: Path, out: Path, merged: bool, figures: dict[str, Any], corpus: Path
) -> CheckpointConfig:
    """Write the folder, whole or not at all.

    Args:
        models: folder of the resolved models that the checkpoint was trained with.
        merged: the adapter within the language model's weights; what is left of it changes nothing.
        figures: measured of the checkpoint, for the card.
        corpus: folder of what it may have been trained on; if it was, the card says what is in it.

    Raises:
        UserError: something is missing or does not fit, or the weights cannot be merged.
    """
    config = check_checkpoint(checkpoint)
    if merged and config.quantization != "none":
        raise UserError(f"{checkpoint} was trained on weights in 4 bits, into which an adapter cannot be merged")
    known = read_models(models)
    needed = {LLM: config.llm_sha256}
    for modality, features in config.features.items():
        needed[ENCODERS[modality]] = str(features.details["encoder"]["sha256"])
    for name, sha256 in needed.items():
        if model_sha256(models / name) != sha256:
            raise UserError(f"{models / name} is another model than {checkpoint} was trained with (sha256 differs)")
    with atomic_folder(out) as folder:
        for path in sorted(checkpoint.iterdir()):
            if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
                shutil.copyfile(path, folder / path.name)
        for name in needed:
            shutil.copytree(models / name, folder / "models" / name)
        if merged or (config.model.vocabulary == "text" and read_tensors(checkpoint / TEXT_EMBEDDINGS)):
            _rewrite(folder, config, merged)
        manifest = {name: known[name] | identity(folder / "models" / name) for name in needed}
        write_text(folder / "models" / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        document = read_json(folder / CONFIG) | {"llm_sha256": manifest[LLM]["sha256"]}
        write_text(folder / CONFIG, json.dumps(document, indent=1, sort_keys=True) + "\n")
        config = check_checkpoint(folder)
        seen = read_json(folder / LINEAGE)["inputs_sha256"].get("corpus")
        is_here = (corpus / SHARDS).is_file() and sha256_file(corpus / SHARDS) == seen
        known_corpus = Manifest.read(corpus, "corpus") if is_here else None
        write_text(folder / "README.md", model_card(out.name, config, folder, figures, merged, known_corpus))
    return config


@torch.inference_mode()
def _rewrite(folder: Path, config: CheckpointConfig, merged: bool) -> None:
    """Put into the language model's own weights what plain transformers does not know of."""
    place = folder / "models" / LLM
    with damage_told(place):
        base: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    if merged:
        base = PeftModel.from_pretrained(base, str(folder)).merge_and_unload(safe_merge=True)
        adapter = read_tensors(folder / ADAPTER)
        nothing = {name: torch.zeros_like(part) if "lora_B" in name else part for name, part in adapter.items()}
        save_file(nothing, folder / ADAPTER, metadata={"format": "pt"})
    trained = read_tensors(folder / TEXT_EMBEDDINGS)
    if config.model.vocabulary == "text" and trained:
        table = base.get_input_embeddings().weight
        if base.config.tie_word_embeddings:  # rows are trained where they are read alone
            base.config.tie_word_embeddings = False
            base.get_output_embeddings().weight = nn.Parameter(table.detach().clone())
        table[trained["ids"]] = trained["rows"].to(table.dtype)
    for path in [*place.glob("*.safetensors"), *place.glob("*.safetensors.index.json")]:
        path.unlink()
    base.save_pretrained(place)
