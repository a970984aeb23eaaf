"""A search for hyper-parameters, which can be resumed and shared by several processes."""
