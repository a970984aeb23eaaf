"""The start of a run that goes on from a finished one with other data: rows are matched by ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

import sevo_jax
from experiments.data import Interactions
from experiments.errors import ArgumentError, UserError
from experiments.files import read_json
from experiments.run import FILES, Run, checksums_of
from experiments.settings import SEVO, ProtocolSettings
from experiments.training import processes
from experiments.training.finished import load_run, read_run
from experiments.training.optimizers import smoothed_tables
from experiments.training.prepare import Setup, make_model
from experiments.training.state import Checkpoint, TrainState, in_table


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
        """Describes how many were matched."""
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


SHAPING = ("dim", "num_heads", "num_blocks", "attend_padding", "published")
"""The settings of models on which their outputs depend."""


def check_start(run: Run, folder: Path) -> None:
    """Checks that a run may go on from the one in a folder, as far as can be told without data.

    Raises:
        ArgumentError: there is no finished run, or one of another model, or a student.
    """
    if not (folder / "result.json").exists():
        raise ArgumentError("from", f"{folder} holds no finished run")
    held = read_json(folder / "config.json")
    if held.get("model") != run.model:
        raise ArgumentError(
            "from", f"{folder} holds a run of {held.get('model')}, expected {run.model}"
        )
    own = run.settings.flat()
    if own["distill"] != "none" or held.get("distill") != "none":
        raise ArgumentError("from", "a student cannot go on from a run, nor a run from a student")
    _check_split(run.settings.protocol, held, folder)
    names = [name for name in SHAPING if name in own and held.get(name) != own[name]]
    if names:
        different = ", ".join(f"{name} {held.get(name)}, not {own[name]}" for name in names)
        raise ArgumentError("from", f"{folder} has {different}")


def _check_split(new: ProtocolSettings, held: Mapping[str, Any], folder: Path) -> None:
    """Raises an `ArgumentError` if the former run has trained on what the new one holds out."""
    old = held.get("split", "leave-one-out")
    by_time = new.split == "time"
    if by_time != (old == "time"):
        raise ArgumentError(
            "split", f"{folder} has {old} and may have trained on what {new.split} holds out"
        )
    if not by_time and new.last_n > held.get("last_n", 1):
        raise ArgumentError(
            "last_n",
            f"must be at most the {held.get('last_n', 1)} of {folder}, which has trained on those "
            f"before them; got {new.last_n}",
        )


def _check_times(data: Interactions, former: Interactions, folder: Path) -> None:
    """Raises an `ArgumentError` if the former run has trained on later times than are held out."""
    if data.times is None or former.times is None:
        return
    known, sought = former.times[former.training_part()], data.times[~data.training_part()]
    if known.dtype.kind != sought.dtype.kind or known.max() >= sought.min():
        raise ArgumentError(
            "valid_from",
            f"{folder} has trained on interactions up to {known.max()}; expected a later time to "
            f"validate from, found {sought.min()}",
        )


def check_held_out(
    data: Interactions,
    former: Interactions,
    items: Matched,
    users: Matched,
    folder: Path,
    *,
    overlapping: bool = False,
) -> None:
    """Raises an `ArgumentError` if the former run may have trained on interactions held out now.

    Without times, it is enough that a user trained on an item that is held out now, more often than
    now. If users repeat items, that may have been at another time. Both sequences of such a user
    are then taken as windows of one history, which lie upon each other where they agree over the
    longest stretch; of equally long ones, the earliest. Periodic histories may be refused.

    With ``overlapping``, only histories that lie upon each other are refused: data that go on where
    another run ended need not have anything in common with what was trained on before that.
    """
    if data.times is not None and former.times is not None:
        return  # these tell more
    item_of, user_of = np.full(data.num_items, -1), np.full(data.num_users, -1)
    item_of[items.new], user_of[users.new] = items.old, users.old
    what, width = item_of[data.items - 1], former.num_items
    # A number for each pair of a user and an item, by their numbers in the former data.
    pairs = user_of[data.owners].astype(np.int64) * width + what
    shared, trains = (user_of[data.owners] >= 0) & (what >= 0), data.training_part()
    known = former.training_part()
    trained = former.owners[known].astype(np.int64) * width + former.items[known] - 1
    sought = np.unique(pairs[shared & ~trains])
    more = _count(sought, trained) > _count(sought, pairs[shared & trains])
    number = dict(zip(users.old.tolist(), users.new.tolist(), strict=True))
    for old in np.unique(sought[more] // width).tolist():
        new = number[old]
        before = former.items[former.starts[old] : former.ends[2, old]] - 1
        now = what[data.starts[new] : data.ends[2, new]]
        repeats = any(np.unique(x).size < x.size for x in (before, now[now >= 0]))
        shift = _shift(before, now) if repeats or overlapping else None
        if shift is None and overlapping:
            continue
        held_out = int(data.ends[0, new] - data.starts[new])
        trained_on = int(former.ends[0, old] - former.starts[old])
        if shift is None or max(held_out + shift, 0) < min(trained_on, now.size + shift):
            raise ArgumentError(
                "from",
                f"{folder} may have trained on interactions that are held out now, such as of user "
                f"{data.user_ids[new]}; expected data that go on where it ended, and its split",
            )


def _check_ancestors(data: Interactions, folder: Path) -> None:
    """Checks the runs from which the one in a folder began, too; notes those that are gone."""
    held = read_json(folder / "config.json")
    while held.get("start"):
        before, folder = folder, Path(held["start"])
        try:
            _, former = read_run(folder)
            if checksums_of(Run.from_json(held)).get("start") != held.get(FILES, {}).get("start"):
                raise UserError(f"{folder}: was trained anew since")
        except UserError as error:
            processes.note(
                f"from {before}: it began from {folder}, and it cannot be told whether that run "
                f"has trained on what is held out now ({error})"
            )
            return
        items, users = (
            match(new, old)
            for new, old in ((data.item_ids, former.item_ids), (data.user_ids, former.user_ids))
        )
        _check_times(data, former, folder)
        check_held_out(data, former, items, users, folder, overlapping=True)
        held = read_json(folder / "config.json")


def _count(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Counts how often each of the values is there."""
    ordered = np.sort(among)
    return np.searchsorted(ordered, values, "right") - np.searchsorted(ordered, values, "left")


def _shift(before: np.ndarray, now: np.ndarray) -> int | None:
    """Finds where one sequence lies upon another; None if they agree nowhere.

    Returns:
        ``k``, so that ``now[i]`` is ``before[i + k]`` wherever both are: of the longest stretch.

    Examples:
        >>> _shift(np.array([1, 2, 3, 4]), np.array([3, 4, 5])), _shift(np.arange(3), np.arange(9))
        (2, 0)
    """

    def stretch(k: int) -> int:
        return min(before.size, now.size + k) - max(k, 0)

    for k in sorted(range(1 - now.size, before.size), key=stretch, reverse=True):
        first = max(k, 0)
        if np.array_equal(before[first : first + stretch(k)], now[first - k :][: stretch(k)]):
            return k
    return None


def continue_from(run: Run, setup: Setup, data: Interactions, start: Checkpoint) -> Checkpoint:
    """Brings a finished run's rows into a first checkpoint; prints what was matched.

    The new data number their ids anew, so rows are matched by ids; `sevo_jax.grow` is for tables
    whose new rows come last. Parameters are those of its best epoch. The moments of Adam and the
    momentum of SGD are those of its last one, if both runs have them. Rows of new ids are as the
    initialiser made them; with SEvo, rows of smoothed tables are the means of their neighbours, as
    the graph weighs them.

    Args:
        run: the run to start; ``start`` of its settings names the finished one.
        setup: its parts.
        data: its data.
        start: its first checkpoint, as the initialiser makes it.

    Raises:
        UserError: as `check_start`; the finished run's data are not where and as they were; the two
            have no common item, or parameters of different shapes.
    """
    folder = Path(run.settings.training.start)
    check_start(run, folder)
    try:
        former = load_run(folder, data.source.parent if data.source else None)
    except UserError as error:
        raise ArgumentError(
            "from", f"the run's data and files must be where and as they were: {error}"
        ) from error
    items, users = (
        _match_items(data, former.data, folder),
        match(data.user_ids, former.data.user_ids),
    )
    _check_times(data, former.data, folder)
    check_held_out(data, former.data, items, users, folder)
    _check_ancestors(data, folder)
    axes = _axes(run, data)

    def carry_over(new: Any, old: Any) -> Any:
        """Copies the matched rows of all leaves of a tree that is like the parameters."""
        leaves, structure = jax.tree.flatten(new)
        # NumPy arrays, which lie on no device, go with leaves on any.
        held: list[np.ndarray] = [np.asarray(leaf) for leaf in jax.tree.leaves(old)]
        pairs = zip(axes, leaves, held, strict=True)
        return jax.tree.unflatten(structure, [_carry(*pair, items, users) for pair in pairs])

    params = carry_over(start.state.params, former.checkpoint.best_params)
    if run.optimizer in SEVO:
        params = _means_of_neighbours(params, axes, run, data, items, users)
    opt_state = _carry_moments(start.state.opt_state, former.checkpoint.state.opt_state, carry_over)
    processes.note(f"from {folder}: {items.words('items')}; {users.words('users')}")
    if opt_state is None:
        opt_state = start.state.opt_state
        processes.note(f"from {folder}: the optimiser is another, and begins anew")
    carried = nnx.merge_state(
        start.state.carried, nnx.filter_state(former.checkpoint.best_carried, nnx.BatchStat)
    )
    place = setup.placement
    params, carried = place.put_params(params), place.put_whole(carried)
    opt_state = place.put_opt_state(setup.optimizer, opt_state, params)
    best_params, best_carried = jax.tree.map(jnp.copy, (params, carried))
    state = TrainState(params, opt_state, carried)
    return start._replace(state=state, best_params=best_params, best_carried=best_carried)


def _match_items(data: Interactions, former: Interactions, folder: Path) -> Matched:
    items = match(data.item_ids, former.item_ids)
    if not items.new.size:
        raise ArgumentError(
            "from",
            f"{folder} knows none of the items of {data.name}; expected ids such as "
            f"{', '.join(map(str, former.item_ids[:3].tolist()))}",
        )
    if data.fingerprint != former.fingerprint and not data.renumbered and not former.renumbered:
        if data.source and former.source and data.name != former.name:
            raise ArgumentError(
                "from",
                f"{folder} was trained on {former.name}; the items of {data.name} are others, "
                "though both count from 1",
            )
        processes.note(
            f"from {folder}: items of both data sets count from 1; this is right only if both "
            "number the same items alike"
        )
    return items


def _axes(run: Run, data: Interactions) -> list[Axes]:
    """Finds the axes of each parameter, by models of one item and of one user more."""
    ids = np.arange(data.num_items + 1), np.arange(data.num_users + 1)
    more_items = dataclasses.replace(data, item_ids=ids[0])
    more_users = dataclasses.replace(
        data,
        items=np.append(data.items, data.items[: data.lengths[0]]),
        lengths=np.append(data.lengths, data.lengths[0]),
        user_ids=ids[1],
        held_out=None,  # any split does, for shapes
    )
    usual, *grown = (
        [leaf.shape for leaf in jax.tree.leaves(nnx.state(make_model(run, own), nnx.Param))]
        for own in (data, more_items, more_users)
    )

    def changed(shape: tuple[int, ...], other: tuple[int, ...]) -> int | None:
        return next((i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b), None)

    by_items, by_users = (map(changed, usual, shapes) for shapes in grown)
    return list(map(Axes, by_items, by_users))


def _carry(axes: Axes, new: Array, old: np.ndarray, items: Matched, users: Matched) -> Array:
    """Copies the matched rows of a parameter, or all of one that has no axis of ids."""
    axis, ids = (axes.users, users) if axes.items is None else (axes.items, items)
    if axis is None:
        _check_shape(new.shape, old.shape)
        return jnp.asarray(old)
    to, of = ids.places(new.shape[axis])
    grown = list(old.shape)
    grown[axis] = new.shape[axis]
    _check_shape(new.shape, tuple(grown))
    rows = jnp.moveaxis(new, axis, 0).at[to].set(np.moveaxis(old, axis, 0)[of])
    return jnp.moveaxis(rows, 0, axis)


def _check_shape(new: tuple[int, ...], old: tuple[int, ...]) -> None:
    if new != old:
        raise ArgumentError(
            "from", f"the run has parameters of shape {old}, and the new one of {new}"
        )


def _carry_moments(new: Any, old: Any, carry_over: Callable[[Any, Any], Any]) -> Any:
    """Carries the states of Adam and of momentum over; ``None`` if the optimisers differ.

    The graph, sums of steps that wait for a smoothing, and schedules of the rate begin anew.
    """
    kinds = (optax.ScaleByAdamState, optax.TraceState)

    def is_kind(part: Any) -> bool:
        return isinstance(part, kinds)

    held = [part for part in jax.tree.leaves(old, is_leaf=is_kind) if is_kind(part)]
    leaves, structure = jax.tree.flatten(new, is_leaf=is_kind)
    if [type(part) for part in leaves if is_kind(part)] != [type(part) for part in held]:
        return None
    former = iter(held)

    def carried(part: Any) -> Any:
        if isinstance(part, optax.ScaleByAdamState):
            before: Any = next(former)
            mu, nu = carry_over(part.mu, before.mu), carry_over(part.nu, before.nu)
            return optax.ScaleByAdamState(before.count, mu, nu)
        if isinstance(part, optax.TraceState):
            before = next(former)
            return optax.TraceState(carry_over(part.trace, before.trace))
        return part

    return jax.tree.unflatten(structure, [carried(part) for part in leaves])


def _means_of_neighbours(
    params: Any, axes: list[Axes], run: Run, data: Interactions, items: Matched, users: Matched
) -> Any:
    """Gives new rows of smoothed tables the means of their neighbours' rows."""
    graph, groups = smoothed_tables(run.settings, data, make_model(run, data))
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    values = [leaf for _, leaf in leaves]

    def is_known(i: int) -> np.ndarray:
        rows = values[i].shape[0]
        matched = users if axes[i].items is None else items
        return np.isin(np.arange(rows), matched.places(rows)[0])

    for group in groups:  # its tables, one after the other, have a row for each node
        places = [
            next(i for i, (path, _) in enumerate(leaves) if in_table(path, table))
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
