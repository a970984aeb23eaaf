"""Turns runs and their results into Markdown, LaTeX and pictures."""
