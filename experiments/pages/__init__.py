"""How results are written: documents in Markdown, LaTeX and JSON, and the style of pictures."""
