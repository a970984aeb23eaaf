"""Parts that several models share: a file for each idea."""
