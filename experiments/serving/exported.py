"""A trained run as files for others: item vectors with their ids, and the encoder of histories.

A user's scores are the dot products of what the encoder returns and the item vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax import export as jax_export
from jaxtyping import Array, Float, Int

from experiments.errors import UserError
from experiments.files import replaced
from experiments.serving.recommender import Recommender, type_of, written_to
from models import Backbone

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    folder: Path,
    out: Path,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes a finished run's vectors and, if its model reads items, its encoder.

    ``items.parquet`` has the columns ``item`` (the data set's own id) and ``vector``. If the model
    adds a bias to each item's score, the bias is the vector's last entry. ``encoder.bin`` is a
    program of `jax.export` for any number of histories: ``int32[users, max_len]`` to
    ``float32[users, dim]``. Items are counted from 1 in the order of ``items.parquet``, the newest
    one stands last, and 0 comes before shorter histories; a history of zeros alone means nothing. A
    model with a table of users has ``users.parquet`` (``user``, ``vector``) in its place.

    Args:
        folder: the run's folder.
        out: the folder to write to; created if missing.
        data_dir: the folder of the data set's file.
        dataset: the run's data set, if its file has moved.
        moved: other files that have moved, as `Recommender.load` takes them.

    Returns:
        The files that were written.

    Raises:
        UserError: the run is not finished, or a file cannot be written.
    """
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: is not finished; resume it first, or name a finished run")
    recommender = Recommender.load(folder, data_dir, dataset, moved)
    model, data = recommender.model, recommender.data
    vectors, bias = map(np.asarray, model.all_items())
    biased = bool(bias.any())
    if biased:
        vectors = np.concatenate([vectors, bias[:, None]], axis=1)
    contents: dict[str, pl.DataFrame | bytes] = {
        "items.parquet": _with_ids("item", data.item_ids, vectors)
    }
    if model.task == "pair":
        users = jnp.arange(data.num_users)[:, None]
        hidden = model(users, jnp.ones_like(users), jnp.zeros_like(users))
        vectors = np.asarray(_padded(hidden[:, 0], biased))
        contents["users.parquet"] = _with_ids("user", data.user_ids, vectors)
    else:
        encode = encoder(model, biased)
        rows = jax_export.symbolic_shape(f"users, {recommender.run.settings.training.max_len}")
        program = jax_export.export(jax.jit(encode), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(rows, jnp.int32)
        )
        contents["encoder.bin"] = bytes(program.serialize())
    with written_to(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with replaced(out / name) as draft:
                if isinstance(content, bytes):
                    draft.write_bytes(content)
                else:
                    content.write_parquet(draft)
    return [out / name for name in contents]


def encoder(
    model: Backbone, biased: bool
) -> Callable[[Int[Array, "users max_len"]], Float[Array, "users dim"]]:
    """Makes the function from histories to vectors of their users.

    Args:
        model: the model; its task is not ``pair``.
        biased: whether the item vectors end with a bias: the users' then end with 1.
    """

    def encode(items: Int[Array, "users max_len"]) -> Float[Array, "users dim"]:
        if model.task == "masked":  # the mask stands in the place of the next item
            mask = jnp.full_like(items[:, :1], model.num_items + 1)
            items = jnp.concatenate([items[:, 1:], mask], axis=1)
        real = items > 0
        positions = jnp.where(real, jnp.arange(items.shape[1]), 0)
        tokens: Any = items, real.astype(jnp.int32), positions
        if not model.packs:  # rows come in groups: here one
            tokens = tuple((field,) for field in tokens)
        return _padded(model(*tokens)[:, -1], biased)

    return encode


def _padded(hidden: Float[Array, "users dim"], biased: bool) -> Float[Array, "users wide"]:
    return jnp.pad(hidden, ((0, 0), (0, 1)), constant_values=1) if biased else hidden


def _with_ids(name: str, ids: np.ndarray, vectors: np.ndarray) -> pl.DataFrame:
    columns = {name: ids.tolist(), "vector": vectors.astype(np.float32)}
    width = pl.Array(pl.Float32, vectors.shape[1])
    return pl.DataFrame(columns, schema={name: type_of(ids), "vector": width})
