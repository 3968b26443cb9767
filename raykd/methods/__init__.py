"""One published idea per file: a divergence, a weighting, a temperature, a term, or a function `Stage -> Stage`."""
