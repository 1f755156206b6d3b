"""When to save and what to keep: pure decisions, standard library only."""
