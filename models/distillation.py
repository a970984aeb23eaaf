"""Losses of knowledge distillation: functions of a student's arrays and its teacher's.

`kd` and `dkd` compare scores item by item. `rkd_…` and `htd_…` compare vectors, whose widths may
differ: `rkd_…` by distances and angles, `htd_…` by cosines and by restoring the teacher's vectors
from the student's. No gradient flows into the teacher's arrays. Each function sums or averages as
the published code does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from models.backbone import mean_of_real

_LEAST_SQUARE = 1e-12
"""Points whose squared distance is at most this count as equal: the root has no gradient there."""
_LEAST_PROBABILITY = 1e-10


def kd(
    student: Float[Array, "*n items"], teacher: Float[Array, "*n items"], temperature: float
) -> Float[Array, "*n"]:
    """Knowledge distillation (Hinton, Vinyals and Dean, 2015): ``T² KL(q_t ‖ q_s)``.

    ``q = softmax(z / T)`` is the distribution over the items. A constant added to the scores of a
    row changes nothing. The gradient with respect to the student's scores is ``T (q_s - q_t)``.

    Args:
        student: its scores ``z``.
        teacher: its scores.
        temperature: ``T``, above 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import kd
        >>> teacher = jnp.array([[2.0, 1.0, 0.0]])
        >>> float(kd(teacher + 5, teacher, temperature=2.0)[0])
        0.0
    """
    wanted, found = (jax.nn.log_softmax(z / temperature) for z in (_fixed(teacher), student))
    return temperature**2 * (jnp.exp(wanted) * (wanted - found)).sum(-1)


class DKDParts(NamedTuple):
    """The parts of `dkd`: the target against all other items, and the other items alone."""

    target: Float[Array, "*n"]
    others: Float[Array, "*n"]


def dkd(
    student: Float[Array, "*n items"],
    teacher: Float[Array, "*n items"],
    targets: Int[Array, "*n"],
    temperature: float,
) -> DKDParts:
    """Computes the two parts of decoupled knowledge distillation (Zhao et al., CVPR 2022).

    With ``p`` the probability of the target under ``softmax(z / T)``, ``b = (p, 1 - p)``, and ``r``
    the softmax over the other items,

    - ``target = T² KL(b_t ‖ b_s)``,
    - ``others = T² KL(r_t ‖ r_s)``, which does not depend on the target's score.

    The loss is ``α target + β others`` with constant weights; `kd` is
    ``target + (1 - p_t) others``, row by row. Logarithms of ``p`` and ``1 - p`` are differences of
    log-sum-exps, finite where the probabilities underflow.

    Args:
        student: its scores ``z``, of at least two items.
        teacher: its scores.
        targets: the column of the target of each row.
        temperature: ``T``, above 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import dkd
        >>> teacher, target = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])
        >>> surer = teacher + jnp.array([[3.0, 0.0, 0.0]])
        >>> parts = dkd(surer, teacher, target, temperature=1.0)
        >>> bool(parts.target[0] > 0), float(parts.others[0])
        (True, 0.0)
    """
    is_target = jnp.arange(student.shape[-1]) == targets[..., None]

    def logs(z: Array) -> tuple[Array, Array, Array]:
        """Returns ``log p``, ``log (1 - p)`` and ``log r``; the target's entry of ``r`` is junk."""
        z = z / temperature
        everything = jax.nn.logsumexp(z, axis=-1)
        rest = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, z), axis=-1)
        score = jnp.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
        return score - everything, rest - everything, z - rest[..., None]

    wanted, found = logs(_fixed(teacher)), logs(student)
    one, complement, others = (jnp.exp(w) * (w - f) for w, f in zip(wanted, found, strict=True))
    others = jnp.where(is_target, 0, others).sum(-1)
    return DKDParts(temperature**2 * (one + complement), temperature**2 * others)


class Anchored(NamedTuple):
    """Outputs, each with the vectors of two items: the next item and a negative.

    Attributes:
        output: the output at every token.
        positive: the vector of the item that came next.
        negative: the vector of an item that did not.
    """

    output: Float[Array, "*n dim"]
    positive: Float[Array, "*n dim"]
    negative: Float[Array, "*n dim"]


def rkd_distance_to_items(
    student: Anchored, teacher: Anchored, real: Bool[Array, "*n"]
) -> Float[Array, ""]:
    """Distils the distances from outputs to their two items (Park et al., CVPR 2019).

    The loss is Huber's of the two sides' distances, each over the mean of its positive ones at
    ``real`` tokens. Neither moving, turning nor scaling the vectors of one side changes it.

    Args:
        student: its vectors.
        teacher: its vectors; the widths may differ.
        real: where there is something to predict.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import Anchored, rkd_distance_to_items
        >>> teacher = Anchored(*jnp.array([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]]))
        >>> student = Anchored(*(7 * x + 1 for x in teacher))
        >>> float(rkd_distance_to_items(student, teacher, jnp.array([True]))) < 1e-12
        True
    """
    sides = student, Anchored(*map(_fixed, teacher))
    found, wanted = (_relative(_norm(_edges(side)), real[..., None]) for side in sides)
    return mean_of_real(_huber(found, wanted).mean(-1), real)


def rkd_angle_to_items(
    student: Anchored, teacher: Anchored, real: Bool[Array, "*n"]
) -> Float[Array, ""]:
    """Distils the angles at outputs between their two items (Park et al., CVPR 2019).

    The loss is Huber's of the two sides' cosines, 0 where an item coincides with the output. A
    token has 2 x 2 cosines, and its loss is their mean. The two on the diagonal always agree.
    Neither moving, turning nor scaling the vectors of one side changes it.

    Args:
        student: its vectors.
        teacher: its vectors; the widths may differ.
        real: where there is something to predict.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import Anchored, rkd_angle_to_items
        >>> teacher = Anchored(*jnp.array([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]]))
        >>> student = teacher._replace(negative=jnp.array([[4.0, 0.0]]))  # 0 degrees, not 90
        >>> float(rkd_angle_to_items(student, teacher, jnp.array([True])))
        0.25
    """

    def cosine(side: Anchored) -> Array:
        return jnp.prod(_unit(_edges(side)), axis=-2).sum(-1)

    return mean_of_real(_huber(cosine(student), cosine(Anchored(*map(_fixed, teacher)))) / 2, real)


def htd_groups(
    logits: Float[Array, "n groups"], noise: Float[Array, "n groups"] | float, temperature: Array
) -> Float[Array, "n groups"]:
    """Draws the share of each group in each entity, by Gumbel's softmax.

    ``softmax((log(softmax(logits) + 1e-10) + noise) / T)``. As ``T`` falls, one group gets nearly
    all of an entity.

    Args:
        logits: computed from the teacher's vectors.
        noise: standard Gumbel noise; 0 for none.
        temperature: ``T``, above 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import htd_groups
        >>> htd_groups(jnp.array([[0.0, 1.0]]), 0.0, 1e-10).tolist()
        [[0.0, 1.0]]
    """
    logs = jnp.log(jax.nn.softmax(logits) + _LEAST_PROBABILITY)
    return jax.nn.softmax((logs + noise) / temperature)


class Experts(NamedTuple):
    """A network of two layers for each group, from the student's vectors to the teacher's.

    Attributes:
        inner: weights of the first layers.
        inner_bias: their biases.
        outer: weights of the second layers.
        outer_bias: their biases.
    """

    inner: Float[Array, "groups dim hidden"]
    inner_bias: Float[Array, "groups hidden"]
    outer: Float[Array, "groups hidden width"]
    outer_bias: Float[Array, "groups width"]


def htd_assignment(
    student: Float[Array, "n dim"],
    teacher: Float[Array, "n width"],
    groups: Float[Array, "n groups"],
    experts: Experts,
    real: Bool[Array, " n"],
) -> Float[Array, ""]:
    """The assignment loss of HTD (Kang et al., KDD 2021): errors of the restored teacher's vectors.

    ``Σ ‖x_t - Σ_k c_k f_k(x_s)‖²`` over the ``real`` entities, with ``c`` from `htd_groups` and
    ``f(x) = W_2 relu(W_1 x + b_1) + b_2``. It forms the groups: entities whose vectors the same
    network restores well end up in the same group.

    Args:
        student: its vectors.
        teacher: its vectors of the same entities.
        groups: ``c``, the share of each group in each entity.
        experts: the networks ``f_k``.
        real: which entities count.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import Experts, htd_assignment
        >>> one, none = jnp.eye(2)[None], jnp.zeros((1, 2))
        >>> twice = Experts(one, none, 2 * one, none)
        >>> student = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> real, groups = jnp.array([True, False]), jnp.ones((2, 1))
        >>> float(htd_assignment(student, 2 * student + 1, groups, twice, real))
        2.0
    """
    hidden = jnp.einsum("nd,kdh->nkh", student, experts.inner) + experts.inner_bias
    weighted = groups[..., None] * jax.nn.relu(hidden)
    restored = jnp.einsum("nkh,khw->nw", weighted, experts.outer) + groups @ experts.outer_bias
    errors = ((_fixed(teacher) - restored) ** 2).sum(-1)
    return jnp.where(real, errors, 0).sum()


class Topology(NamedTuple):
    """The parts of `htd_topology`: within groups, and between group means and all entities."""

    intra: Float[Array, ""]
    inter: Float[Array, ""]


def htd_topology(
    student: Float[Array, "n dim"],
    teacher: Float[Array, "n width"],
    groups: Int[Array, " n"],
    num_groups: int,
    real: Bool[Array, " n"],
) -> Topology:
    """Compares cosines in hierarchical topology distillation (Kang et al., KDD 2021).

    - ``intra = Σ (cos_s(x_i, x_j) - cos_t(x_i, x_j))²`` over ordered pairs of one group,
    - ``inter = Σ (cos_s(P_k, x_i) - cos_t(P_k, x_i))²`` over all entities and the means ``P_k`` of
      the groups. The means are constants for the gradient.

    Both are 0 if the student's vectors are the teacher's, turned and scaled. A zero vector has a
    cosine of 0 with any other.

    Args:
        student: its vectors.
        teacher: its vectors of the same entities.
        groups: the group of each entity, below ``num_groups``.
        num_groups: the number of groups; empty ones add nothing.
        real: which entities count.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import htd_topology
        >>> student, teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.eye(2)
        >>> real = jnp.array([True, True])
        >>> float(htd_topology(student, teacher, jnp.array([0, 0]), 2, real).intra)
        2.0
        >>> float(htd_topology(student, teacher, jnp.array([0, 1]), 2, real).intra)
        0.0
    """
    members = jax.nn.one_hot(groups, num_groups, axis=0) * real  # [groups, n]
    counts = members.sum(-1, keepdims=True)

    def cosines(x: Array) -> tuple[Array, Array]:
        means = _fixed(members @ x / jnp.maximum(counts, 1))
        entities = _unit(x)
        return entities @ entities.T, _unit(means) @ entities.T

    errors = [
        (found - wanted) ** 2
        for found, wanted in zip(cosines(student), cosines(_fixed(teacher)), strict=True)
    ]
    in_one_group = members.T @ members > 0
    return Topology(
        intra=jnp.where(in_one_group, errors[0], 0).sum(),
        inter=jnp.where(real & (counts > 0), errors[1], 0).sum(),
    )


def _fixed(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.lax.stop_gradient(x)


def _huber(found: Array, wanted: Array) -> Array:
    return optax.losses.huber_loss(found, wanted)


def _norm(x: Float[Array, "*n dim"]) -> Float[Array, "*n"]:
    """Returns lengths; a vector that is as good as zero has length 0 and no gradient."""
    square = (x**2).sum(-1)
    positive = square > _LEAST_SQUARE
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _unit(x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
    """Scales vectors to length 1; one that is as good as zero stays zero, with no gradient."""
    length = _norm(x)[..., None]
    return jnp.where(length > 0, x, 0) / jnp.where(length > 0, length, 1)


def _edges(side: Anchored) -> Float[Array, "*n 2 dim"]:
    """Returns the vectors that lead from outputs to their two items."""
    return jnp.stack([side.positive, side.negative], axis=-2) - side.output[..., None, :]


def _relative(distances: Float[Array, ...], real: Bool[Array, ...]) -> Float[Array, ...]:
    """Divides distances by the mean of the positive ones; all are 0 if none is positive."""
    counted = real & (distances > 0)
    total = jnp.where(counted, distances, 0).sum()
    mean = total / jnp.maximum(counted.sum(), 1)
    return distances / jnp.where(mean > 0, mean, 1)
