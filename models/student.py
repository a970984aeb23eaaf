"""A SASRec that also learns from a teacher, and the methods of distillation.

The teacher's weights are constants: they are no parameters, and no checkpoint holds them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models import distillation
from models.backbone import Backbone, Constant, Tokens
from models.distillation import Anchored, Experts
from models.layers.dropout import split_keys
from models.layers.initializers import symmetric_uniform
from models.layers.losses import Scored, Scorer, mean_over_scores
from models.sasrec import SASRec

LAST_TEMPERATURE = 1e-10


class Lesson(NamedTuple):
    """Two models and their outputs at the same tokens, which a method compares.

    Attributes:
        student: the student.
        teacher: the teacher, frozen.
        output: the student's outputs.
        wanted: the teacher's outputs, without dropout.
        positives: the item to predict at each token.
        negatives: ``int[rows, width, k]`` or ``int[k]``, items that are not to be predicted.
        real: where there is something to predict.
    """

    student: Backbone
    teacher: Backbone
    output: Float[Array, "rows width dim"]
    wanted: Float[Array, "rows width teacher_dim"]
    positives: Int[Array, "rows width"]
    negatives: Int[Array, ...]
    real: Bool[Array, "rows width"]


class Method(nnx.Module):
    """A method of distillation: a term in the student's loss."""

    def __call__(self, lesson: Lesson, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns the weighted loss, averaged over the real tokens."""
        raise NotImplementedError


class KD(Method):
    """Compares the scores of all items: ``weight`` times `distillation.kd`."""

    def __init__(self, *, weight: float = 2.0, temperature: float = 2.0) -> None:
        self.weight, self.temperature = weight, temperature

    def __call__(self, lesson: Lesson, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns the weighted loss, averaged over the real tokens."""

        def loss(student: Array, teacher: Array, _: Array) -> Array:
            return self.weight * distillation.kd(student, teacher, self.temperature)

        return _mean_over_scores(loss, lesson)


class DKD(Method):
    """Compares the scores of all items: the weighted parts of `distillation.dkd`."""

    def __init__(
        self,
        *,
        target_weight: float = 1.0,
        others_weight: float = 500.0,
        temperature: float = 1.0,
    ) -> None:
        self.target_weight, self.others_weight = target_weight, others_weight
        self.temperature = temperature

    def __call__(self, lesson: Lesson, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns the weighted loss, averaged over the real tokens."""

        def loss(student: Array, teacher: Array, targets: Array) -> Array:
            parts = distillation.dkd(student, teacher, targets, self.temperature)
            return self.target_weight * parts.target + self.others_weight * parts.others

        return _mean_over_scores(loss, lesson)


class RKD(Method):
    """Compares distances and angles from outputs to the next item and to a negative."""

    def __init__(self, *, distance_weight: float = 0.1, angle_weight: float = 0.5) -> None:
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def __call__(self, lesson: Lesson, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns the weighted loss of distances and angles."""
        shape = *lesson.positives.shape, lesson.negatives.shape[-1]
        negatives = jnp.broadcast_to(lesson.negatives, shape)[..., 0]

        def anchored(model: Backbone, output: Array) -> Anchored:
            vectors = (model.item_vectors(items)[0] for items in (lesson.positives, negatives))
            return Anchored(output, *vectors)

        student = anchored(lesson.student, lesson.output)
        teacher = anchored(lesson.teacher, lesson.wanted)
        distance = distillation.rkd_distance_to_items(student, teacher, lesson.real)
        angle = distillation.rkd_angle_to_items(student, teacher, lesson.real)
        return self.distance_weight * distance + self.angle_weight * angle


class Steps(nnx.Variable[Any]):
    """The number of training steps so far."""


class Groups(nnx.Module):
    """Groups of users or of items: a layer that assigns entities, and a network for each group."""

    def __init__(self, num_groups: int, dim: int, teacher_dim: int, *, rngs: nnx.Rngs) -> None:
        hidden = (dim + teacher_dim) // 2

        def uniform(inputs: int, *shape: int) -> nnx.Param[Array]:
            return nnx.Param(symmetric_uniform(inputs**-0.5)(rngs.params(), shape))

        self.choice = uniform(teacher_dim, teacher_dim, num_groups)
        self.choice_bias = uniform(teacher_dim, num_groups)
        self.inner = uniform(dim, num_groups, dim, hidden)
        self.inner_bias = uniform(dim, num_groups, hidden)
        self.outer = uniform(hidden, num_groups, hidden, teacher_dim)
        self.outer_bias = uniform(hidden, num_groups, teacher_dim)

    def logits(self, teacher: Float[Array, "n width"]) -> Float[Array, "n groups"]:
        """Returns how strongly the teacher's vectors belong to each group."""
        return teacher @ self.choice[...] + self.choice_bias[...]

    def experts(self) -> Experts:
        """Returns the networks."""
        weights = self.inner, self.inner_bias, self.outer, self.outer_bias
        return Experts(*(weight[...] for weight in weights))


class HTD(Method):
    """Hierarchical topology distillation of a batch's users and items.

    The users are the outputs at real tokens. The items are the positives and negatives of the
    batch, each once. With ``M`` real tokens the loss is
    ``weight / M (topology (intra + inter) + (1 - topology) assignment)``. The parts are sums, as in
    `models.distillation`. Users and items have separate groups, but share one topology. The
    temperature of the groups falls from 1 to 1e-10 over ``num_steps``, by the same factor at every
    step.

    Args:
        dim: width of the student.
        teacher_dim: width of the teacher.
        num_groups: number of groups of users, and again of items.
        weight: weight of the whole loss.
        topology: the share of the topology in the loss.
        num_steps: number of steps of the whole training.
        rngs: the stream ``params`` initialises the weights.
    """

    def __init__(
        self,
        dim: int,
        teacher_dim: int,
        *,
        num_groups: int = 30,
        weight: float = 1e-3,
        topology: float = 0.5,
        num_steps: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.users = Groups(num_groups, dim, teacher_dim, rngs=rngs)
        self.items = Groups(num_groups, dim, teacher_dim, rngs=rngs)
        self.steps = Steps(jnp.zeros((), jnp.int32))
        self.num_groups, self.num_steps = num_groups, num_steps
        self.weight, self.topology = weight, topology

    def __call__(self, lesson: Lesson, key: PRNGKeyArray | None = None) -> Float[Array, ""]:
        """Returns the weighted loss, and counts the step."""
        done = jnp.minimum(self.steps[...] / self.num_steps, 1)
        self.steps[...] = self.steps[...] + 1
        temperature = jnp.exp(done * jnp.log(LAST_TEMPERATURE))
        real = lesson.real.ravel()
        items, there = _distinct_items(lesson)
        users = [x.reshape(-1, x.shape[-1]) for x in (lesson.output, lesson.wanted)]
        vectors = [model.item_vectors(items)[0] for model in (lesson.student, lesson.teacher)]

        assignment = jnp.zeros(())
        members: list[Array] = []
        keys = split_keys(key, 2)
        for groups, (student, teacher), counted, own_key in zip(
            (self.users, self.items), (users, vectors), (real, there), keys, strict=True
        ):
            logits = groups.logits(teacher)
            noise = 0.0 if own_key is None else jax.random.gumbel(own_key, logits.shape)
            chosen = distillation.htd_groups(logits, noise, temperature)
            assignment += distillation.htd_assignment(
                student, teacher, chosen, groups.experts(), counted
            )
            members.append(logits.argmax(-1))
        topology = distillation.htd_topology(
            jnp.concatenate([users[0], vectors[0]]),
            jnp.concatenate([users[1], vectors[1]]),
            jnp.concatenate([members[0], members[1] + self.num_groups]),
            2 * self.num_groups,
            jnp.concatenate([real, there]),
        )
        both = self.topology * sum(topology) + (1 - self.topology) * assignment
        return self.weight * both / jnp.maximum(real.sum(), 1)


class Student(SASRec):
    """`SASRec` with a teacher: a method of distillation adds to its training loss.

    In evaluation it is a SASRec. The teacher reads the same tokens, without dropout.

    Args:
        num_items: items are ``1 … num_items``.
        teacher: a model of the same items; its parameters become constants.
        method: the method of distillation.
        options: arguments of `SASRec`.

    Raises:
        ValueError: the teacher knows another number of items or cannot read the student's rows, or
            an argument of `SASRec` is wrong.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import SASRec
        >>> from models.student import KD, Student
        >>> teacher = SASRec(num_items=9, max_len=4, dim=16, rngs=nnx.Rngs(0))
        >>> student = Student(9, teacher, KD(), max_len=4, dim=8, rngs=nnx.Rngs(1))
        >>> tokens = jnp.array([[5, 2, 7]]), jnp.array([[1, 1, 1]]), jnp.array([[1, 2, 3]])
        >>> student(*tokens).shape
        (1, 3, 8)
    """

    def __init__(self, num_items: int, teacher: Backbone, method: Method, **options: Any) -> None:
        if teacher.num_items != num_items:
            raise ValueError(
                f"the teacher knows {teacher.num_items} items, the student {num_items}; expected "
                "the same ones"
            )
        if teacher.task != self.task or not teacher.packs:
            raise ValueError("the teacher must read rows as SASRec does")
        super().__init__(num_items, **options)
        self.teacher = freeze(teacher)
        self.method = method

    def training_loss(
        self,
        tokens: Tokens,
        positives: Int[Array, "rows targets"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows targets"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """Returns the sum of the loss of the next item and the loss of the method."""
        own_key, method_key = split_keys(key, 2)
        output = self(*tokens, own_key)
        lesson = Lesson(
            self, self.teacher, output, self.teacher(*tokens), positives, negatives, real
        )
        return self.loss(output, positives, negatives, real) + self.method(lesson, method_key)


def freeze(model: Backbone) -> Backbone:
    """Turns the parameters of a model into constants; returns the same model.

    Examples:
        >>> from flax import nnx
        >>> from models import MFBPR
        >>> from models.student import freeze
        >>> nnx.state(freeze(MFBPR(2, 3, dim=4, rngs=nnx.Rngs(0))), nnx.Param)
        State({})
    """
    modules = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Param):
                setattr(module, name, Constant(value.get_value()))
    return model


def _mean_over_scores(loss: Scored, lesson: Lesson) -> Float[Array, ""]:
    """Averages a loss of the scores of all items over the real tokens."""

    def scorer(model: Backbone, hidden: Array) -> Scorer:
        return hidden.reshape(-1, hidden.shape[-1]), *model.all_items()

    student, teacher = scorer(lesson.student, lesson.output), scorer(lesson.teacher, lesson.wanted)
    targets = jnp.maximum(lesson.positives.ravel() - 1, 0)  # padding is no class
    return mean_over_scores(loss, student, teacher, targets, lesson.real.ravel())


def _distinct_items(lesson: Lesson) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Returns the items of a batch, each once, filled up with 0, and where they are not 0.

    The array is as long as all items of the batch, repeats included, so that its shape is static.
    """
    real, negatives = lesson.real, lesson.negatives
    if negatives.ndim > 1:
        negatives = jnp.where(real[..., None], negatives, 0)
    every = jnp.concatenate([jnp.where(real, lesson.positives, 0).ravel(), negatives.ravel()])
    items = jnp.unique(every, size=every.size, fill_value=0)
    return items, items > 0
