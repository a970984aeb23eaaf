"""How results become Markdown, LaTeX and pictures, and the runs behind them."""
