"""Whether one set of runs is better or worse than another."""
