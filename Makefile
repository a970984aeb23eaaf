# The six commands. Each runs as it stands here, too.
.PHONY: test slow lint docs bench reproduce

test: # the default tests
	python -m pytest

slow: # those that take many minutes
	python -m pytest -m slow

lint: # what `pre-commit` runs
	ruff check .
	ruff format --check .
	pyright

docs: # the site, in site/
	mkdocs build --strict

bench: # speed and memory, into benchmarks/results (python -m benchmarks.NAME --quick: one of them)
	python -m benchmarks.run

reproduce: # the paper's main table (--models sasrec --datasets beauty: a part of it)
	python -m experiments.reproduce table2
