"""mho: simulate analog in-memory computing hardware inside PyTorch, and train networks to survive it."""
