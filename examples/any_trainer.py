"""SEvo in a training loop of another framework: one call every few epochs, here in PyTorch.

A table and a linear layer predict the next item of made-up sessions, of 300 items in 30 groups.
Run it with ``python examples/any_trainer.py``, where PyTorch is installed. It prints the loss, and
how often the best item is of the next item's group.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

import sevo_jax

ITEMS, GROUPS, DIM, EPOCHS, EVERY = 300, 30, 16, 45, 3


def sessions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws sessions of four items, most of them from one group: ``int[count, 4]``."""
    group = rng.integers(GROUPS, size=(count, 1))
    within = group * (ITEMS // GROUPS) + rng.integers(ITEMS // GROUPS, size=(count, 4))
    return np.where(rng.random((count, 4)) < 0.8, within, rng.integers(ITEMS, size=(count, 4)))


def evolve_weight(torch: Any, graph: sevo_jax.Graph, before: np.ndarray, weight: Any) -> np.ndarray:
    """Smooths in place the way that a weight of PyTorch has gone; returns where it stands now."""
    after = weight.detach().cpu().numpy()
    evolved = np.asarray(sevo_jax.evolve(graph, before, after, beta=0.9))
    with torch.no_grad():
        weight.copy_(torch.from_numpy(evolved))
    return evolved


def main() -> dict[str, float] | None:
    """Trains with and without SEvo and returns the share of hits; ``None`` without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        print("skipped: PyTorch is not installed (pip install torch)")
        return None
    torch: Any = importlib.import_module("torch")
    rng = np.random.default_rng(0)
    train, test = sessions(rng, 400), sessions(rng, 2000)
    graph = sevo_jax.sequence_graph(train, ITEMS, padding=None)
    hits: dict[str, float] = {}
    for name, smoothed in {"AdamW": False, "AdamW and evolve": True}.items():
        torch.manual_seed(0)
        table, dense = torch.nn.Embedding(ITEMS, DIM), torch.nn.Linear(DIM, DIM)
        parameters = [*table.parameters(), *dense.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=3e-2, weight_decay=0.0)

        def scores(items: Any, table: Any = table, dense: Any = dense) -> Any:
            return dense(table(items).mean(dim=1)) @ table.weight.T

        before, loss = table.weight.detach().numpy().copy(), torch.zeros([])
        for epoch in range(1, EPOCHS + 1):
            for batch in torch.from_numpy(rng.permutation(train)).split(64):
                loss = torch.nn.functional.cross_entropy(scores(batch[:, :3]), batch[:, 3])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if smoothed and epoch % EVERY == 0:  # these two lines are SEvo
                before = evolve_weight(torch, graph, before, table.weight)
            if epoch % 15 == 0:
                print(f"{name}: loss {loss.item():.3f} after {epoch} epochs")
        guess = scores(torch.from_numpy(test[:, :3])).argmax(dim=1).numpy()
        hits[name] = float((guess // (ITEMS // GROUPS) == test[:, 3] // (ITEMS // GROUPS)).mean())
        print(f"{name}: the best item is of the next item's group in {hits[name]:.1%} of sessions")
    return hits


if __name__ == "__main__":
    main()
