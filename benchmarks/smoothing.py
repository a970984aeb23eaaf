"""``python -m benchmarks.smoothing``: the cost of SEvo in a training step, and in an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax
from benchmarks import report, workload
from experiments.training.graphs import item_graph
from experiments.training.timing import in_turn

DIM = 64
RATE, DECAY, BETA, LAYERS = 1e-3, 0.1, 0.99, 3
ROUNDS = 7


def training_step(quick: bool, suffix: str = "", **changes: Any) -> report.Case:
    """Measures SASRec's whole step, packed; ``changes`` replaces some of SEvo's settings."""
    # On a CPU, the speed of a program depends by some per cent on where the allocator put its
    # buffers. So several pairs of programs are measured, and their rounds are pooled.
    data = workload.dataset(quick)
    pooled: dict[str, list[np.ndarray]] = {"sevo_adamw": [], "optax.adamw": []}
    for _ in range(1 if quick or jax.default_backend() == "gpu" else 4):
        sevo, steps = workload.epoch_runner(data, "sevo-adamw", **changes)
        adamw, _ = workload.epoch_runner(data, "adamw")
        calls = {"sevo_adamw": sevo, "optax.adamw": adamw}
        for name, seconds in in_turn(calls, rounds=1 if quick else ROUNDS).items():
            pooled[name].append(seconds / steps)
    seconds = {name: np.concatenate(rounds) for name, rounds in pooled.items()}
    return report.case(f"SASRec step, packed, {data.name}{suffix}", seconds, "ms", 1e3)


def update_of(
    transformation: optax.GradientTransformation, table: jax.Array, gradient: jax.Array, steps: int
) -> Callable[[], Any]:
    """Returns a call that makes ``steps`` updates of the table in one program."""

    def run(params: jax.Array, state: Any, gradient: jax.Array) -> Any:
        def step(carry: tuple[jax.Array, Any], number: jax.Array) -> tuple[Any, None]:
            params, state = carry
            # No two steps have the same gradient, so that none can be moved out of the loop.
            updates, state = transformation.update(gradient * (1 + 1e-3 * number), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(float(steps)))[0]

    return partial(jax.jit(run), table, transformation.init(table), gradient)


def torch_updates(
    graph: sevo_jax.Graph, table: np.ndarray, gradient: np.ndarray, steps: int
) -> dict[str, Callable[[], Any]]:
    """Makes AdamW and SEvo of PyTorch, on JAX's kind of device; none without PyTorch."""
    operator = workload.torch_csr(graph.to_scipy())
    if operator is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    device = operator.device
    scale = 1 / sum(BETA**power for power in range(LAYERS + 1))
    given = torch.from_numpy(gradient).to(device)

    def adamw() -> Callable[[], Any]:
        parameter = torch.nn.Parameter(torch.from_numpy(table.copy()).to(device))
        optimizer = torch.optim.AdamW([parameter], lr=RATE, weight_decay=DECAY)

        def call() -> None:
            for _ in range(steps):
                parameter.grad = given
                optimizer.step()
            workload.torch_wait()

        return call

    def smoothed() -> Callable[[], Any]:
        parameter = torch.from_numpy(table.copy()).to(device)
        mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
        count = 0

        def call() -> None:
            nonlocal count
            for _ in range(steps):
                count += 1
                idle = ~(given != 0).any(1, keepdim=True)
                for moment, decay, value in ((mean, 0.9, given), (square, 0.999, given * given)):
                    before = max(count - 1, 1)
                    rest = moment * ((1 - decay**count) / (1 - decay**before))
                    moved = decay * moment + (1 - decay) * value
                    moment.copy_(torch.where(idle, rest, moved))
                root = (square / (1 - 0.999**count)).sqrt_().add_(1e-8)
                update = mean / (1 - 0.9**count) / root
                layered = update
                for _ in range(LAYERS):
                    layered = update + BETA * (operator @ layered)
                parameter.mul_(1 - RATE * DECAY).sub_(layered, alpha=RATE * scale)
            workload.torch_wait()

        return call

    return {"torch SEvo": smoothed(), "torch.optim.AdamW": adamw()}


def update(quick: bool) -> list[report.Case]:
    """Measures an update of the item table, beside plain AdamW and then beside PyTorch."""
    data, steps = workload.dataset(quick), 2 if quick else 20
    graph = item_graph(data, max_len=50)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((graph.num_nodes, DIM), np.float32)
    touched = rng.random((graph.num_nodes, 1)) < 0.3
    gradient = np.where(touched, rng.standard_normal(table.shape, np.float32), 0)
    given = jnp.asarray(table), jnp.asarray(gradient.astype(np.float32)), steps
    calls = {
        "sevo_adamw": update_of(sevo_jax.sevo_adamw(RATE, graph, weight_decay=DECAY), *given),
        "optax.adamw": update_of(optax.adamw(RATE, weight_decay=DECAY), *given),
    }
    rounds, scale = 1 if quick else 21, 1e3 / steps
    where = f"{graph.num_nodes} x {DIM}, {data.name}"
    seconds = in_turn(calls, rounds)
    cases = [report.case(f"update of a table, {where}", seconds, "ms", scale)]
    # PyTorch's threads wait on the cores for a while, which slows others down. So PyTorch is
    # measured in turns of its own.
    peers = torch_updates(graph, table, gradient.astype(np.float32), steps)
    if peers:
        seconds = in_turn({"sevo_adamw": calls["sevo_adamw"]} | peers, rounds)
        for peer, what in (("torch SEvo", "SEvo update"), ("torch.optim.AdamW", "update")):
            pair = {name: seconds[name] for name in ("sevo_adamw", peer)}
            name = f"{what} of a table beside PyTorch, {where}"
            cases.append(report.case(name, pair, "ms", scale))
    return cases


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures the training step, then the update."""
    yield training_step(quick)
    yield from update(quick)


if __name__ == "__main__":
    report.command("smoothing", measure)
