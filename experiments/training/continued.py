"""The start of a run that goes on from a finished one with other data: rows are matched by ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

import sevo_jax
from experiments.console import say
from experiments.data import Interactions
from experiments.errors import ArgumentError
from experiments.run import Run
from experiments.settings import SEVO
from experiments.training.finished import load_run
from experiments.training.optimizers import smoothed_tables
from experiments.training.prepare import Setup, make_model
from experiments.training.state import Checkpoint


class Matched(NamedTuple):
    """Ids that both data sets have.

    Attributes:
        new: ``int[matched]``, their numbers in the new data, from 0.
        old: ``int[matched]``, their numbers in the old data, from 0.
        new_count: the number of ids of the new data.
        old_count: the number of ids of the old data.
    """

    new: np.ndarray
    old: np.ndarray
    new_count: int
    old_count: int

    def words(self, what: str) -> str:
        """Says how many were matched."""
        new, gone = self.new_count - self.new.size, self.old_count - self.old.size
        return f"{self.new.size:,} {what} matched, {new:,} new, {gone:,} gone"

    def places(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the matched places along an axis of the new size, and those in the old one.

        An axis may also have places before the ids, for padding, and after them, for the mask.
        """
        extra = size - self.new_count
        before = np.arange(min(extra, 1))
        after = np.arange(max(extra - 1, 0))
        return tuple(
            np.concatenate([before, numbers + before.size, count + before.size + after])
            for numbers, count in ((self.new, self.new_count), (self.old, self.old_count))
        )  # pyright: ignore[reportReturnType]


def match(new: np.ndarray, old: np.ndarray) -> Matched:
    """Matches ids as text."""
    place = {str(name): i for i, name in enumerate(old.tolist())}
    found = np.array([place.get(str(name), -1) for name in new.tolist()], np.int64)
    return Matched(np.flatnonzero(found >= 0), found[found >= 0], new.size, old.size)


class Axes(NamedTuple):
    """The axes of a parameter that grow with the items and with the users."""

    items: int | None
    users: int | None


def continue_from(run: Run, setup: Setup, data: Interactions, start: Checkpoint) -> Checkpoint:
    """Brings a finished run's rows into a first checkpoint; prints what was matched.

    Parameters are those of its best epoch. The moments of Adam and the momentum of SGD are those of
    its last one, if it had the same optimiser. Rows of new ids are as the initialiser made them;
    with SEvo, rows of smoothed tables are the means of their neighbours, as the graph weighs them.

    Args:
        run: the run to start; ``start`` of its settings names the finished one.
        setup: its parts.
        data: its data.
        start: its first checkpoint, as the initialiser makes it.

    Raises:
        UserError: there is no finished run, or one of another model or size, or without common
            items.
    """
    folder = Path(run.settings.training.start)
    if not (folder / "result.json").exists():
        raise ArgumentError("from", f"{folder} holds no finished run")
    former = load_run(folder, data.source.parent if data.source else None)
    _check_same_model(run, former.run, folder)
    items = match(data.item_ids, former.data.item_ids)
    users = match(data.user_ids, former.data.user_ids)
    if not items.new.size:
        raise ArgumentError(
            "from",
            f"{folder} knows none of the items of {data.name}; expected ids such as "
            f"{', '.join(map(str, former.data.item_ids[:3].tolist()))}",
        )
    axes = _axes(run, data)

    def carry_over(new: Any, old: Any) -> Any:
        """Copies the matched rows of all leaves of a tree that is like the parameters."""
        leaves, structure = jax.tree.flatten(new)
        pairs = zip(axes, leaves, jax.tree.leaves(old), strict=True)
        return jax.tree.unflatten(structure, [_carry(*pair, items, users) for pair in pairs])

    params = carry_over(start.state.params, former.checkpoint.best_params)
    if run.optimizer in SEVO:
        params = _means_of_neighbours(params, axes, run, data, items, users)
    opt_state = _carry_moments(start.state.opt_state, former.checkpoint.state.opt_state, carry_over)
    say(f"from {folder}: {items.words('items')}; {users.words('users')}")
    if opt_state is None:
        opt_state = start.state.opt_state
        say(f"from {folder}: the optimiser is another, and begins anew")
    place = setup.placement
    params = place.put_params(params)
    opt_state = place.put_opt_state(setup.optimizer, opt_state, params)
    state = start.state._replace(params=params, opt_state=opt_state)
    return start._replace(state=state, best_params=jax.tree.map(jnp.copy, params))


def _check_same_model(run: Run, former: Run, folder: Path) -> None:
    if former.model != run.model:
        raise ArgumentError("from", f"{folder} holds a run of {former.model}, expected {run.model}")
    own, old = (
        dataclasses.asdict(r.settings.model) | {"max_len": r.settings.training.max_len}
        for r in (run, former)
    )
    different = [f"{name} {old[name]}, not {own[name]}" for name in own if own[name] != old[name]]
    if different:
        raise ArgumentError("from", f"{folder} has {', '.join(different)}")


def _axes(run: Run, data: Interactions) -> list[Axes]:
    """Finds the axes of each parameter, by models of one item and of one user more."""
    ids = np.arange(data.num_items + 1), np.arange(data.num_users + 1)
    more_items = dataclasses.replace(data, item_ids=ids[0])
    more_users = dataclasses.replace(
        data,
        items=np.append(data.items, data.items[: data.lengths[0]]),
        lengths=np.append(data.lengths, data.lengths[0]),
        user_ids=ids[1],
    )
    usual, *grown = (
        [leaf.shape for leaf in jax.tree.leaves(nnx.state(make_model(run, own), nnx.Param))]
        for own in (data, more_items, more_users)
    )

    def changed(shape: tuple[int, ...], other: tuple[int, ...]) -> int | None:
        return next((i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b), None)

    by_items, by_users = (map(changed, usual, shapes) for shapes in grown)
    return list(map(Axes, by_items, by_users))


def _carry(axes: Axes, new: Array, old: Array, items: Matched, users: Matched) -> Array:
    """Copies the matched rows of a parameter, or all of one that has no axis of ids."""
    axis, ids = (axes.users, users) if axes.items is None else (axes.items, items)
    if axis is None:
        return old
    to, of = ids.places(new.shape[axis])
    rows = jnp.moveaxis(new, axis, 0).at[to].set(jnp.moveaxis(jnp.asarray(old), axis, 0)[of])
    return jnp.moveaxis(rows, 0, axis)


def _carry_moments(new: Any, old: Any, carry_over: Any) -> Any:
    """Carries moments and counts over; ``None`` if the optimisers differ."""
    kinds = (optax.ScaleByAdamState, optax.TraceState, sevo_jax.Graph)
    (leaves, structure), (held, former) = (
        jax.tree.flatten(state, is_leaf=lambda x: isinstance(x, kinds)) for state in (new, old)
    )
    if structure != former:
        return None

    def carried() -> Iterator[Any]:
        for leaf, before in zip(leaves, held, strict=True):
            if isinstance(leaf, optax.ScaleByAdamState):
                mu, nu = carry_over(leaf.mu, before.mu), carry_over(leaf.nu, before.nu)
                yield optax.ScaleByAdamState(before.count, mu, nu)
            elif isinstance(leaf, optax.TraceState):
                yield optax.TraceState(carry_over(leaf.trace, before.trace))
            else:  # the graph is new, and so are sums of steps that wait; counts go on
                scalar = not isinstance(leaf, sevo_jax.Graph) and jnp.ndim(leaf) == 0
                yield before if scalar else leaf

    return jax.tree.unflatten(structure, list(carried()))


def _means_of_neighbours(
    params: Any, axes: list[Axes], run: Run, data: Interactions, items: Matched, users: Matched
) -> Any:
    """Gives new rows of smoothed tables the means of their neighbours' rows."""
    graph, groups = smoothed_tables(run.settings, data, make_model(run, data))
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    values = [leaf for _, leaf in leaves]

    def is_known(i: int) -> np.ndarray:
        rows = values[i].shape[0]
        matched = users if axes[i].items is None else items
        return np.isin(np.arange(rows), matched.places(rows)[0])

    for group in groups:  # its tables, one after the other, have a row for each node
        places = [
            next(i for i, name in enumerate(names) if name.startswith(f"{table}/"))
            for table in group
        ]
        whole = jnp.concatenate([values[i] for i in places])
        filled = fill(graph, whole, jnp.asarray(np.concatenate(list(map(is_known, places)))))
        ends = np.cumsum([values[i].shape[0] for i in places])[:-1]
        for i, rows in zip(places, jnp.split(filled, ends), strict=True):
            values[i] = rows
    return jax.tree.unflatten(structure, values)


def fill(
    graph: sevo_jax.Graph, table: Float[Array, "nodes dim"], known: Bool[Array, " nodes"]
) -> Float[Array, "nodes dim"]:
    """Replaces unknown rows by the means of their known neighbours, weighted by ``Ã``.

    Rows without a known neighbour stay.
    """
    weights = known.astype(table.dtype)[:, None]
    total = sevo_jax.spmm(graph, weights)
    mean = sevo_jax.spmm(graph, table * weights) / jnp.where(total > 0, total, 1)
    return jnp.where(known[:, None] | (total <= 0), table, mean)
