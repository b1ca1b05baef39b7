"""How many tokens each worker generated: written to a log, counted by folding it."""
