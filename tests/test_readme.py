"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parents[1]


def test_example_runs() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    names: dict = {}
    exec(code.group(1), names)
    table = names["params"]["item_embedding"]
    assert table.shape == (5, 8)
    assert bool(jnp.isfinite(table).all())
    assert bool((table < 1).all()), "every row has moved down its gradient"
    assert isinstance(names["state"], tuple)
    assert jax.tree.structure(names["updates"]) == jax.tree.structure(names["params"])
