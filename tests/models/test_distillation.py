"""Losses of distillation against NumPy, and where they are zero or do not change."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from models import distillation
from models.distillation import Anchored, Experts

pytestmark = pytest.mark.slow

N, ITEMS, DIM, WIDTH, GROUPS = 6, 9, 3, 5, 4
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, N, ITEMS)).astype(np.float32)
TARGETS = RNG.integers(0, ITEMS, N)
POINTS = RNG.normal(size=(N, DIM)).astype(np.float32)
TAUGHT = RNG.normal(size=(N, WIDTH)).astype(np.float32)
TURN = np.linalg.qr(RNG.normal(size=(WIDTH, WIDTH)))[0]
REAL = np.array([1, 1, 0, 1, 1, 1]) > 0
MEMBERS = np.array([0, 2, 2, 0, 2, 1])  # group 3 is empty


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def huber(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def cosines(x, y):
    return (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T


def anchored(seed: int, width: int) -> Anchored:
    return Anchored(*np.random.default_rng(seed).normal(size=(3, N, width)).astype(np.float32))


# ---- KD and DKD ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_kd_and_its_gradient(temperature):
    teacher, student = TEACHER.astype(np.float64), STUDENT.astype(np.float64)
    want = temperature**2 * kl(
        log_softmax(teacher / temperature, 1), log_softmax(student / temperature, 1)
    )
    value = distillation.kd(STUDENT, TEACHER, temperature)
    np.testing.assert_allclose(value, want, rtol=1e-4)
    slopes = jax.grad(lambda *z: distillation.kd(*z, temperature).mean(), (0, 1))(STUDENT, TEACHER)
    gap = softmax(student / temperature, 1) - softmax(teacher / temperature, 1)
    np.testing.assert_allclose(slopes[0], temperature * gap / N, atol=1e-6)
    assert not slopes[1].any()  # the teacher learns nothing


def test_kd_does_not_notice_constants_of_rows():
    shifts = np.arange(N, dtype=np.float32)[:, None]
    np.testing.assert_allclose(distillation.kd(TEACHER + shifts, TEACHER, 2.0), 0, atol=1e-6)
    one, other = (distillation.kd(z, TEACHER, 2.0) for z in (STUDENT, STUDENT - shifts))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_kd_at_high_temperature_is_a_squared_distance():
    centred = [z - z.mean(1, keepdims=True) for z in (STUDENT, TEACHER)]
    want = ((centred[0] - centred[1]) ** 2).sum(1) / (2 * ITEMS)
    value = distillation.kd(STUDENT, TEACHER, 30.0)
    np.testing.assert_allclose(value, want, rtol=0.1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_and_how_it_adds_up_to_kd(temperature):
    parts = distillation.dkd(STUDENT, TEACHER, TARGETS, temperature)
    for row, target in enumerate(TARGETS):
        (p_s, r_s), (p_t, r_t) = (
            (softmax(z)[target], log_softmax(np.delete(z, target)))
            for z in (z[row].astype(np.float64) / temperature for z in (STUDENT, TEACHER))
        )
        of_target = temperature**2 * kl(np.log([p_t, 1 - p_t]), np.log([p_s, 1 - p_s]))
        of_others = temperature**2 * kl(r_t, r_s)
        assert float(parts.target[row]) == pytest.approx(of_target, rel=1e-4, abs=1e-5)
        assert float(parts.others[row]) == pytest.approx(of_others, rel=1e-4)
        whole = distillation.kd(STUDENT[row], TEACHER[row], temperature)
        assert float(whole) == pytest.approx(of_target + (1 - p_t) * of_others, rel=1e-4)


def test_dkd_of_the_others_ignores_targets():
    moved = STUDENT.copy()
    moved[np.arange(N), TARGETS] += 3
    one, other = (distillation.dkd(z, TEACHER, TARGETS, 1.0) for z in (STUDENT, moved))
    np.testing.assert_allclose(one.others, other.others, atol=1e-5)
    assert (np.abs(one.target - other.target) > 0.01).all()
    np.testing.assert_allclose(distillation.dkd(TEACHER, TEACHER, TARGETS, 1.0), 0, atol=1e-6)


@pytest.mark.parametrize("gap", [200.0, -200.0])
def test_dkd_is_finite_where_probabilities_underflow(gap):
    """The student takes the target to be certain, or impossible."""
    student = np.zeros((1, ITEMS), np.float32)
    student[0, 0] = gap

    def loss(z):
        return sum(part.sum() for part in distillation.dkd(z, TEACHER[:1], np.zeros(1, int), 1.0))

    value, slope = jax.value_and_grad(loss)(student)
    p_t = softmax(TEACHER[0].astype(np.float64))[0]
    p_s = -np.log1p((ITEMS - 1) * np.exp(-gap)), -np.log1p(np.exp(gap) / (ITEMS - 1))  # logs
    of_others = kl(log_softmax(TEACHER[0, 1:]), np.full(ITEMS - 1, -np.log(ITEMS - 1)))
    want = kl(np.log([p_t, 1 - p_t]), np.array(p_s)) + of_others
    assert float(value) == pytest.approx(want, rel=1e-4)
    assert np.isfinite(slope).all()
    assert slope.any()


# ---- RKD ----------------------------------------------------------------------------------------


TO_ITEMS = [distillation.rkd_distance_to_items, distillation.rkd_angle_to_items]


def test_rkd_to_items_by_hand():
    student, teacher = anchored(1, DIM), anchored(2, WIDTH)

    def edges(side):
        return np.stack([side.positive, side.negative], 1)[REAL] - side.output[REAL][:, None]

    def distances(side):
        lengths = np.linalg.norm(edges(side), axis=-1)
        return lengths / lengths.mean()

    def two_by_two(side):
        return np.stack([cosines(pair, pair) for pair in edges(side)])

    for loss, by_hand in zip(TO_ITEMS, (distances, two_by_two), strict=True):
        want = huber(by_hand(student) - by_hand(teacher)).mean()
        assert float(loss(student, teacher, REAL)) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("loss", TO_ITEMS)
def test_rkd_to_items_notices_neither_moves_nor_turns_nor_scale(loss):
    teacher = anchored(2, WIDTH)
    moved = Anchored(*((3 * x @ TURN + 1).astype(np.float32) for x in teacher))
    assert float(loss(moved, teacher, REAL)) == pytest.approx(0, abs=1e-9)
    alone = Anchored(teacher.output + 1, teacher.positive, teacher.negative)
    assert float(loss(alone, teacher, REAL)) > 1e-4  # outputs moved without their items


@pytest.mark.parametrize("loss", TO_ITEMS)
def test_rkd_to_items_is_finite_at_an_item_and_where_nothing_is_real(loss):
    student = anchored(1, DIM)
    student = student._replace(positive=student.output, negative=student.output)
    for real in (REAL, np.zeros(N, bool)):
        value, slopes = jax.value_and_grad(loss)(student, anchored(2, WIDTH), real)
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)


# ---- HTD ----------------------------------------------------------------------------------------


def test_htd_groups_by_hand_and_when_cold():
    logits, noise = RNG.normal(size=(N, GROUPS)), RNG.gumbel(size=(N, GROUPS))
    want = softmax((np.log(softmax(logits, 1) + 1e-10) + noise) / 0.7, 1)
    np.testing.assert_allclose(distillation.htd_groups(logits, noise, 0.7), want, rtol=1e-4)
    cold = distillation.htd_groups(logits, 0.0, 1e-10)
    np.testing.assert_array_equal(cold, np.eye(GROUPS)[logits.argmax(1)])


def test_htd_assignment_by_hand():
    shapes = [(GROUPS, DIM, 4), (GROUPS, 4), (GROUPS, 4, WIDTH), (GROUPS, WIDTH)]
    experts = Experts(*(RNG.normal(size=s).astype(np.float32) for s in shapes))
    groups = softmax(RNG.normal(size=(N, GROUPS)), 1).astype(np.float32)
    want = 0.0
    for i in np.flatnonzero(REAL):
        restored = sum(
            groups[i, k]
            * (np.maximum(POINTS[i] @ e.inner + e.inner_bias, 0) @ e.outer + e.outer_bias)
            for k, e in enumerate(Experts(*parts) for parts in zip(*experts, strict=True))
        )
        want += ((TAUGHT[i] - restored) ** 2).sum()
    value, slopes = jax.value_and_grad(distillation.htd_assignment, (0, 2, 3))(
        POINTS, TAUGHT, groups, experts, REAL
    )
    assert float(value) == pytest.approx(want, rel=1e-4)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(slopes))
    assert not slopes[0][~REAL].any()


def test_htd_topology_by_hand():
    got = distillation.htd_topology(POINTS, TAUGHT, MEMBERS, GROUPS, REAL)
    intra = inter = 0.0
    for group in range(GROUPS):
        inside = np.flatnonzero((group == MEMBERS) & REAL)
        if not inside.size:
            continue
        gaps = [cosines(x[inside], x[inside]) for x in (POINTS, TAUGHT)]
        intra += ((gaps[0] - gaps[1]) ** 2).sum()
        gaps = [cosines(x[inside].mean(0, keepdims=True), x[REAL]) for x in (POINTS, TAUGHT)]
        inter += ((gaps[0] - gaps[1]) ** 2).sum()
    assert float(got.intra) == pytest.approx(intra, rel=1e-4)
    assert float(got.inter) == pytest.approx(inter, rel=1e-4)


def test_htd_topology_notices_neither_turns_nor_scale_but_moves():
    def parts(student):
        return distillation.htd_topology(student.astype(np.float32), TAUGHT, MEMBERS, GROUPS, REAL)

    np.testing.assert_allclose(parts(3 * TAUGHT @ TURN), 0, atol=1e-9)
    assert min(map(float, parts(TAUGHT + 1))) > 1e-3
    lengths = np.arange(1, N + 1)[:, None]
    assert float(parts(lengths * TAUGHT).intra) == pytest.approx(0, abs=1e-9)


def test_htd_topology_has_finite_gradients_at_zero_vectors():
    points = POINTS.copy()
    points[1] = 0

    def loss(x):
        return sum(distillation.htd_topology(x, TAUGHT, MEMBERS, GROUPS, REAL))

    slope = jax.grad(loss)(points)
    assert np.isfinite(slope).all()
    assert slope[0].any()
    assert not slope[~REAL].any()
