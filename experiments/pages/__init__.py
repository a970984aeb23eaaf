"""Documents in Markdown, LaTeX and JSON, and the one style of all pictures."""
