"""The tables' way through Ray Data: plan, decode, match, commit, read, evaluate."""
