"""Students of a teacher: nothing to learn from oneself, and nothing that the teacher learns."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from models import MFBPR, SASRec, Student, distillation
from models.student import DKD, HTD, KD, LAST_TEMPERATURE, RKD
from tests.models.helpers import DIM, NUM_ITEMS, PACKED, TRANSFORMER, array

pytestmark = pytest.mark.slow  # nine programs to compile

TEACHER_DIM = 12
METHODS = {
    "kd": lambda width: KD(temperature=2.0, weight=3.0),
    "dkd": lambda width: DKD(),
    "rkd": lambda width: RKD(),
    "htd": lambda width: HTD(DIM, width, num_groups=3, topology=1.0, num_steps=4, rngs=nnx.Rngs(2)),
}


def make_teacher(dim: int = TEACHER_DIM) -> SASRec:
    return SASRec(NUM_ITEMS, **{**TRANSFORMER, "dim": dim}, rngs=nnx.Rngs(0))


def make_student(name: str, teacher: SASRec, seed: int = 1) -> Student:
    method = METHODS[name](teacher.item_embedding.features)
    return Student(NUM_ITEMS, teacher, method, **TRANSFORMER, rngs=nnx.Rngs(seed))


def added(student: Student) -> tuple[jax.Array, nnx.State]:
    """Returns the method's term in the loss of a packed batch, and its gradients."""
    graphdef, params, rest = nnx.split(student, nnx.Param, ...)

    @jax.jit
    def run(params, rest):
        def term(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = model.training_loss(PACKED.tokens, *PACKED.targets)
            value -= model.loss(model(*PACKED.tokens), *PACKED.targets)
            return value

        return jax.value_and_grad(term)(params)

    return run(params, rest)


@pytest.mark.parametrize("name", METHODS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    student = make_student(name, make_teacher(DIM), seed=0)
    own = nnx.state(make_teacher(DIM), nnx.Param)
    nnx.update(student, own)
    value, _ = added(student)
    assert float(value) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_another_student_has_finite_gradients_and_its_teacher_none(name):
    value, gradients = added(make_student(name, make_teacher()))
    assert float(value) > 1e-6
    leaves = {jax.tree_util.keystr(p): g for p, g in jax.tree.leaves_with_path(gradients)}
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    assert not any("teacher" in path for path in leaves)
    table = next(leaf for path, leaf in leaves.items() if "item_embedding" in path)
    assert np.any(table)


def test_kd_is_the_mean_over_real_tokens():
    student = make_student("kd", make_teacher())
    value, _ = added(student)
    real = PACKED.targets[2]
    tables = [array(m.item_embedding.embedding)[1:] for m in (student, student.teacher)]
    scores = [
        np.asarray(model(*PACKED.tokens), np.float64)[real] @ table.T / 2
        for model, table in zip((student, student.teacher), tables, strict=True)
    ]
    found, wanted = (log_softmax(z, axis=1) for z in scores)
    want = 3 * 4 * (np.exp(wanted) * (wanted - found)).sum(1).mean()
    assert float(value) == pytest.approx(want, rel=1e-3)


def test_the_groups_of_htd_cool_down_step_by_step(monkeypatch):
    temperatures: list[float] = []
    htd_groups = distillation.htd_groups

    def spied(logits, noise, temperature):
        temperatures.append(float(temperature))
        return htd_groups(logits, noise, temperature)

    monkeypatch.setattr(distillation, "htd_groups", spied)
    student = make_student("htd", make_teacher())
    for _ in range(6):
        student.training_loss(PACKED.tokens, *PACKED.targets)
    want = LAST_TEMPERATURE ** np.array([0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(temperatures[::2], want, rtol=1e-3)
    assert int(student.method.steps[...]) == 6


def test_teachers_of_other_items_or_tasks():
    with pytest.raises(ValueError, match="knows 3 items, the student 12"):
        Student(NUM_ITEMS, SASRec(3, **TRANSFORMER, rngs=nnx.Rngs(0)), KD(), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must read rows"):
        Student(NUM_ITEMS, MFBPR(3, NUM_ITEMS, dim=4, rngs=nnx.Rngs(0)), KD(), rngs=nnx.Rngs(0))
