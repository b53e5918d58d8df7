"""The pipeline stage ``models``: language model and encoders into plain folders."""

from pipeline.runtime.commands import long_running
from pipeline.runtime.progress import display
from pipeline.runtime.scratch import work_folder
from pipeline.settings.params import Sections
from pipeline.settings.places import MODELS
from pipeline.settings.section import Seed
from pipeline.weights.settings import Models


class ModelsSections(Sections):
    """What ``models`` reads of params.yaml."""

    seed: Seed
    models: Models


@long_running
def models() -> None:
    """Resolve the language model and the two encoders into models/. After this nothing needs a network."""
    from pipeline.weights.resolve import build_models, local_hashes

    p = ModelsSections.load()
    sections = {"models": p.models, "seed": p.seed}
    with (
        display("models") as show,
        work_folder("models", __name__, sections, local_hashes(p.models)) as scratch,
    ):
        manifest = build_models(p.models, p.seed, scratch, MODELS, show)
        for name, entry in manifest.items():
            trained = "" if entry["pretrained"] else ", untrained (seeded)"
            show.say(f"{name}: {entry['parameters']:,} parameters from {entry['source']}{trained}")
            if not getattr(p.models, name).pinned:
                show.say(f"note: {entry['source']} is not pinned; models.{name}.revision: {entry['commit']} keeps it")
