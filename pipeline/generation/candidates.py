"""In which ways candidates for a prompt are written."""

from pipeline.decoding.options import Decoding

WARM = 0.7  # temperature of all candidates but the first, where none is asked for


def decodings(
    num_candidates: int, max_new_tokens: int, temperature: float | None, top_p: float, num_beams: int, seed: int
) -> list[Decoding]:
    """The ways in which so many candidates are written, as ``CadMllm.generate_from`` describes them.

    Raises:
        UserError: the numbers do not go together.
    """
    if num_beams > 1:
        return [Decoding(max_new_tokens, num_candidates, temperature or 0.0, top_p, num_beams)]
    if temperature is None:
        others = Decoding(max_new_tokens, max(num_candidates - 1, 1), WARM, top_p, seed=seed)
        return [Decoding(max_new_tokens), *([others] if num_candidates > 1 else [])]
    return [Decoding(max_new_tokens, num_candidates, temperature, top_p, seed=seed)]
