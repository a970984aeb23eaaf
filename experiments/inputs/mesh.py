"""Several devices: users are split over the axis ``data`` of a mesh, tables over ``model``.

The program is the same as on one device. This file decides where its arrays lie, and XLA's
partitioner does the rest. Random numbers belong to cells and not to devices, so that losses and
metrics are those of one device, up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.errors import ArgumentError

DATA, MODEL = "data", "model"
HOST_DEVICES = "--xla_force_host_platform_device_count"
"""XLA's own option, which splits a CPU into devices."""


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of axes, such as ``data=2,model=2``; an axis left out has size 1.

    Raises:
        UserError: the text is something else.

    Examples:
        >>> parse_mesh("model=4")
        {'data': 1, 'model': 4}
    """
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        name, size = name.strip(), size.strip()
        if name not in (DATA, MODEL):
            raise ArgumentError(
                "mesh",
                f"unknown axis {name!r}; expected {DATA} and {MODEL} with their sizes, "
                f"such as {DATA}=2,{MODEL}=2",
            )
        if name in given:
            raise ArgumentError("mesh", f"{name} is given twice, in {text!r}")
        if not (size.isascii() and size.isdigit() and int(size) > 0):
            raise ArgumentError(
                "mesh", f"the size of {name} must be a number from 1 on, got {size!r}"
            )
        given[name] = int(size)
    return {DATA: 1, MODEL: 1} | given


def make_mesh(text: str) -> Mesh:
    """Makes a mesh of the first devices; with several processes, of all devices.

    Args:
        text: the sizes of the axes; see `parse_mesh`.

    Raises:
        UserError: as `parse_mesh`; or there are too few devices, or several processes have more
            devices than the mesh.
    """
    sizes = parse_mesh(text)
    count, devices = math.prod(sizes.values()), jax.devices()
    if count > len(devices):
        hint = f"{HOST_DEVICES}={count}"
        raise ArgumentError(
            "mesh",
            f"{text} takes {count} devices, and there are {len(devices)} "
            f"({devices[0].platform}); CPUs are split into as many by XLA_FLAGS={hint}",
        )
    if count < len(devices) and jax.process_count() > 1:
        raise ArgumentError(
            "mesh",
            f"{text} takes {count} devices, and the {jax.process_count()} processes have "
            f"{len(devices)}; expected a mesh of all of them",
        )
    # All processes must put the devices in the same order.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(devices[:count]).reshape(sizes[DATA], sizes[MODEL])
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


@dataclasses.dataclass(frozen=True)
class Placement:
    """The places of arrays: on a mesh, or without a mesh where JAX puts them.

    With several processes, all make the same calls with equal arrays. Each process keeps the parts
    that its devices hold.
    """

    mesh: Mesh | None = None

    @property
    def num_devices(self) -> int:
        """The number of devices in use."""
        return 1 if self.mesh is None else self.mesh.size

    def splits_both(self) -> bool:
        """Tells whether both axes have several devices."""
        return self.mesh is not None and min(self.mesh.shape.values()) > 1

    def rows_for(self, rows: int) -> int:
        """Rounds a number of rows up to a multiple of the size of ``data``."""
        parts = 1 if self.mesh is None else self.mesh.shape[DATA]
        return -(-rows // parts) * parts

    def put_whole(self, tree: Any) -> Any:
        """Puts every leaf whole on every device."""
        return tree if self.mesh is None else self._put(tree, jax.tree.map(lambda _: _WHOLE, tree))

    def put_split(self, tree: Any) -> Any:
        """Splits axis 1 of every leaf, of rows or users, over ``data``; whole if uneven."""
        if self.mesh is None:
            return tree
        parts, split = self.mesh.shape[DATA], PartitionSpec(None, DATA)
        specs = jax.tree.map(lambda x: _WHOLE if x.shape[1] % parts else split, tree)
        return self._put(tree, specs)

    def put_params(self, params: Any) -> Any:
        """Splits the features of tables over ``model``; all else is whole.

        Raises:
            UserError: ``model`` does not divide the width of a table.
        """
        return params if self.mesh is None else self._put(params, self._param_specs(params))

    def put_opt_state(
        self, optimizer: optax.GradientTransformation, state: Any, params: Any
    ) -> Any:
        """Puts each moment of a parameter where the parameter lies; all else is whole."""
        if self.mesh is None:
            return state
        specs = optax.tree.map_params(
            optimizer,
            lambda _, spec: spec,
            state,
            self._param_specs(params),
            transform_non_params=lambda _: _WHOLE,
        )
        return self._put(state, specs)

    def split(self, tree: Any, *axes: str) -> Any:
        """Splits leading axes over ``axes`` in a compiled function; axes that do not divide stay.

        Args:
            tree: arrays of the function.
            axes: the axis of the mesh for each leading axis of an array.
        """
        # Uneven parts would also do, but with uneven parts on both axes, XLA (of JAX 0.10.2, on
        # CPUs) computed wrong numbers.
        mesh = self.mesh
        if mesh is None:
            return tree

        def split(x: jax.Array) -> jax.Array:
            sizes = zip(axes, x.shape, strict=False)
            spec = [axis if size % mesh.shape[axis] == 0 else None for axis, size in sizes]
            sharding = NamedSharding(mesh, PartitionSpec(*spec))
            return jax.lax.with_sharding_constraint(x, sharding)

        return jax.tree.map(split, tree)

    def shardings(self, state: Any) -> Any:
        """Returns the shardings of an epoch's results: the state as it lies, whole losses."""
        if self.mesh is None:
            return None
        return jax.tree.map(lambda x: x.sharding, state), NamedSharding(self.mesh, _WHOLE)

    def _param_specs(self, params: Any) -> Any:
        assert self.mesh is not None
        parts = self.mesh.shape[MODEL]

        def spec(path: Any, leaf: jax.Array) -> PartitionSpec:
            name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
            if not name.endswith("/embedding"):
                return _WHOLE
            if leaf.shape[1] % parts:
                raise ArgumentError(
                    "mesh",
                    f"{MODEL}={parts} does not divide the width {leaf.shape[1]} of "
                    f"{name.removesuffix('/embedding')}; choose another mesh or another width",
                )
            return PartitionSpec(None, MODEL)

        return jax.tree_util.tree_map_with_path(spec, params)

    def _put(self, tree: Any, specs: Any) -> Any:
        # Every process supplies the parts that its own devices hold.
        def put(leaf: Any, spec: PartitionSpec) -> jax.Array:
            array = np.asarray(leaf)
            sharding = NamedSharding(mesh, spec)
            return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

        mesh: Any = self.mesh
        return jax.tree.map(put, tree, specs)


_WHOLE = PartitionSpec()
ONE_DEVICE = Placement()
