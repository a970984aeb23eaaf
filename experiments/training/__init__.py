"""Training: step, loop and checkpoints, with models, optimisers and graphs."""
