"""Programs written by the model: greedy, sampled or with beams, held to the grammar."""
