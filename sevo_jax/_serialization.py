"""Graphs in Flax's state dicts, for `flax.serialization.to_bytes` and its users.

Flax has a registry of how to take classes apart. `Graph` and `Pending` are entered there as soon as
``flax.serialization`` is imported, before or after this library. Nothing here imports Flax.
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCSR

from sevo_jax._graph import Graph
from sevo_jax._matrices import check_compressed
from sevo_jax._pending import Pending, check_same_every

FLAX = "flax.serialization"


def to_state_dict(graph: Graph) -> dict[str, Any]:
    """Takes a graph apart into its arrays by name and its number of nodes."""
    state: dict[str, Any] = {"num_nodes": graph.num_nodes, "operator": _arrays(graph.operator)}
    if graph.weights is not None:
        state["weights"] = _arrays(graph.weights)
    if graph.exchange is not None and graph.exchange.send is not None:
        state["send"] = graph.exchange.send
    return state


def from_state_dict(target: Graph, state: dict[str, Any]) -> Graph:
    """Makes the graph of a state dict, with the kernel, precision and devices of ``target``.

    Raises:
        ValueError: the state dict is that of another kind of graph, of other nodes, or damaged.
    """
    expected, found = sorted(to_state_dict(target)), sorted(state)
    if found != expected:
        raise ValueError(f"a graph's state dict must hold {expected}, got {found}")
    if state["num_nodes"] != target.num_nodes:
        raise ValueError(
            f"the state dict holds a graph of {state['num_nodes']} nodes, and the target one of "
            f"{target.num_nodes}"
        )
    restored: dict[str, Any] = {"operator": _matrix(target.operator, state["operator"])}
    if target.weights is not None:
        restored["weights"] = _matrix(target.weights, state["weights"])
    if target.exchange is not None and target.exchange.send is not None:
        if np.shape(state["send"]) != np.shape(target.exchange.send):
            raise ValueError("the state dict holds a graph that is split in another way")
        send = jnp.asarray(state["send"])
        restored["exchange"] = dataclasses.replace(target.exchange, send=send)
    return dataclasses.replace(target, **restored)


def _arrays(matrix: BCSR) -> dict[str, Any]:
    return {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}


def _matrix(target: BCSR, state: dict[str, Any]) -> BCSR:
    data, indices, indptr = (state[name] for name in ("data", "indices", "indptr"))
    *parts, rows, columns = target.shape
    if np.shape(indptr) != (*parts, rows + 1):
        raise ValueError(
            f"a graph's pointers must be of shape {(*parts, rows + 1)}, got {np.shape(indptr)}"
        )
    if np.shape(indices) != np.shape(data):
        raise ValueError(
            f"a graph must have one index a value, got {np.shape(indices)} and {np.shape(data)}"
        )
    if not any(isinstance(a, Tracer) for a in (data, indices, indptr)):
        capacity = np.shape(data)[-1]
        part_indices = np.asarray(indices).reshape(-1, capacity)
        part_pointers = np.asarray(indptr).reshape(-1, rows + 1)
        for own_indices, own_pointers in zip(part_indices, part_pointers, strict=True):
            check_compressed(own_indices, own_pointers, capacity, rows, columns)
    return BCSR(
        (data, indices, indptr),
        shape=target.shape,
        indices_sorted=target.indices_sorted,
        unique_indices=target.unique_indices,
    )


def register_with_flax() -> None:
    """Enters `Graph` and `Pending` into Flax's registry, now or as soon as Flax is imported."""
    flax = sys.modules.get(FLAX)
    if flax is not None:
        _register_with(flax)
    elif not any(isinstance(finder, _AfterFlax) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterFlax())


def _register_with(flax: ModuleType) -> None:
    flax.register_serialization_state(Graph, to_state_dict, from_state_dict, override=True)

    def pending_to_state_dict(pending: Pending) -> dict[str, Any]:
        fields = {name: getattr(pending, name) for name in ("steps", "beta", "tol")}
        return {"every": pending.every, **flax.to_state_dict(fields)}

    def pending_from_state_dict(target: Pending, state: Any) -> Pending:
        fields = {name: getattr(target, name) for name in ("steps", "beta", "tol")}
        if state is None or sorted(state) != sorted(["every", *fields]):
            raise ValueError("the state dict holds no steps that wait, as with another every")
        check_same_every(dataclasses.replace(target, every=state["every"]), target.every)
        restored = {name: state[name] for name in fields}
        return dataclasses.replace(target, **flax.from_state_dict(fields, restored))

    flax.register_serialization_state(
        Pending, pending_to_state_dict, pending_from_state_dict, override=True
    )


class _AfterFlax(importlib.abc.MetaPathFinder):
    """Finds ``flax.serialization`` as Python does, and registers once it has run."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != FLAX:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        run = loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register_with(module)

        loader.exec_module = run_and_register
        return spec
