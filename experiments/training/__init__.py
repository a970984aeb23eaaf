"""Training: layout, batch, step, loop, checkpoints; and what a step is made of."""
