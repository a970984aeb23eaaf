"""``python -m experiments.sweep``: a search for hyper-parameters, resumable and shared."""
