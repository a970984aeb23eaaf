"""Shared by the tests of models that carry more than parameters: random weights, steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models import Backbone, Constant


def randomize(model: Backbone, std: float = 0.5) -> Backbone:
    """The model with all parameters random: biases and scales too, which start at 0 and 1."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, std, x.shape), x.dtype), params)
    return nnx.merge(graphdef, params, rest)


def types(model: Backbone) -> list[tuple]:
    """Shapes and dtypes, and whether the latter are weak: what a step must not change."""
    leaves = jax.tree.leaves_with_path(nnx.state(model))
    return [(jax.tree_util.keystr(path), jax.typeof(leaf), leaf.weak_type) for path, leaf in leaves]


def make_loss(graphdef: nnx.GraphDef[Backbone], constants: Any) -> Callable[..., Any]:
    """The loss of a step, and what the step carries to the next."""

    def loss(params, carried, tokens, targets, key):
        model = nnx.merge(graphdef, params, constants, carried, copy=True)
        value = model.training_loss(tokens, *targets, key)
        return value, nnx.split(model, nnx.Param, Constant, ...)[3]

    return loss


def compile_gradients(model: Backbone) -> Callable[..., tuple[float, dict, Backbone]]:
    """A function of tokens, targets and key.

    It returns the loss, its gradients by path, and the model after the step but for its parameters.
    """
    graphdef, params, constants, carried = nnx.split(model, nnx.Param, Constant, ...)
    function = jax.value_and_grad(make_loss(graphdef, constants), has_aux=True)
    compiled = jax.jit(function)

    def run(tokens, targets, key=None):
        (value, after), gradients = compiled(params, carried, tokens, targets, key)
        by_path = jax.tree.leaves_with_path(gradients)
        by_path = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in by_path}
        return float(value), by_path, nnx.merge(graphdef, params, constants, after)

    return run
