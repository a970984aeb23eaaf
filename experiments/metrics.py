"""Metrics of the ranks of held-out items, over all users and over groups, and of lists of items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import Interactions
from experiments.evaluation import held_out_items, ranked_users

CUTOFFS = {"HR": (1, 5, 10), "NDCG": (5, 10)}
CRITERION = "NDCG@10"
"""The metric on validation that chooses the best epoch."""


def in_order(ranks: np.ndarray) -> np.ndarray:
    """Sorts the ranks of each user's held-out items; those of equal scores come one after another.

    Args:
        ranks: ``int[users, k]``, as `ranks_of` returns them: two items of equal scores on the first
            places both have rank 2. 0 is none.

    Returns:
        ``int[users, k]``, in which they have ranks 1 and 2; 0 comes last.

    Examples:
        >>> import numpy as np
        >>> in_order(np.array([[5, 2, 2], [0, 3, 0]])).tolist()
        [[1, 2, 5], [3, 0, 0]]
    """
    none = np.iinfo(np.int64).max // 2
    place = np.arange(ranks.shape[1])
    ordered = np.sort(np.where(ranks > 0, ranks, none), axis=1) - place
    ordered = np.minimum.accumulate(ordered[:, ::-1], axis=1)[:, ::-1] + place
    return np.where(ordered < none // 2, ordered, 0)


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """HR@k: the share of users with a held-out item among the first ``k``."""
    return float(np.mean(ranks.min(axis=1) <= k))


def discounted_gain(ranks: np.ndarray, k: int) -> float:
    """NDCG@k: the gains of held-out items among the first ``k``, over those of the best order."""
    gains = (1 / np.log2(ranks + 1) * (ranks <= k)).sum(axis=1)
    relevant = np.minimum(np.isfinite(ranks).sum(axis=1), k)
    ideal = np.cumsum(1 / np.log2(np.arange(2, ranks.shape[1] + 2)))
    return float(np.mean(gains / ideal[relevant - 1]))


def reciprocal_rank(ranks: np.ndarray, k: int) -> float:
    """MRR@k: one over the rank of the first held-out item; 0 beyond ``k``."""
    first = ranks.min(axis=1)
    return float(np.mean((first <= k) / first))


METRICS = {"HR": hit_rate, "NDCG": discounted_gain, "MRR": reciprocal_rank}
"""The metrics: functions of ``float[users, k]``, ranks from 1 in order and then inf, and of k."""


def metrics_of(ranks: np.ndarray, cutoffs: Sequence[int] = ()) -> dict[str, float]:
    """Averages HR@K and NDCG@K over users, and all `METRICS` at further cutoffs.

    Args:
        ranks: ``int[users]``, from 1; or ``int[users, k]``, as `in_order` returns them.
        cutoffs: the further cutoffs.

    Examples:
        >>> import numpy as np
        >>> from experiments.metrics import metrics_of
        >>> metrics_of(np.array([1, 7, 12, 3]))["HR@10"]
        0.75
        >>> metrics_of(np.array([[2, 3], [1, 0]]), cutoffs=[2])["MRR@2"]
        0.75
    """
    ranks = np.asarray(ranks, np.float64).reshape(len(ranks), -1)
    ranks = np.where(ranks > 0, ranks, np.inf)
    asked = [(name, k) for name, own in CUTOFFS.items() for k in own]
    asked += [(name, k) for k in cutoffs for name in METRICS]
    return {f"{name}@{k}": METRICS[name](ranks, k) for name, k in asked}


Groups = dict[str, list[Any]]


def by_popularity(ranks: np.ndarray, data: Interactions) -> Groups:
    """Computes metrics of the test for groups of users, by the popularity of their test item.

    It is the item's training interactions; the mean of several items, rounded down.

    Args:
        ranks: of the test items, as `metrics_of` takes them; of `ranked_users`.
        data: the data set.

    Returns:
        As `by_fifths`.
    """
    items = held_out_items(data, "test", ranked_users(data, "test")).reshape(len(ranks), -1)
    popularity = data.training_counts()[items].sum(axis=1, where=items > 0)
    return by_fifths(ranks, popularity // (items > 0).sum(axis=1))


def by_history(ranks: np.ndarray, data: Interactions) -> Groups:
    """Computes metrics of the test for groups of users, by their interactions before it.

    Arguments and results are those of `by_popularity`.
    """
    users = ranked_users(data, "test")
    return by_fifths(ranks, (data.ends[1] - data.starts)[users])


def by_fifths(ranks: np.ndarray, interactions: np.ndarray) -> Groups:
    """Computes HR@10 and NDCG@10 for five groups of users.

    Users are sorted by a number of interactions and cut into fifths, the fewest first. Users with
    equal numbers stay in one group, so groups differ in size.

    Args:
        ranks: as `metrics_of` takes them.
        interactions: ``int[users]``.

    Returns:
        Five values each: the ``users`` of a group, the ``most_interactions`` in it, and the
        metrics, ``None`` if the group is empty.
    """
    # The four bounds are numbers that occur, so that equal ones fall on the same side.
    bounds = np.quantile(interactions, np.arange(1, 5) / 5, method="lower")
    group = np.searchsorted(bounds, interactions)
    groups: Groups = {
        "users": np.bincount(group, minlength=5).tolist(),
        "most_interactions": [*map(int, bounds), int(interactions.max())],
        "HR@10": [],
        "NDCG@10": [],
    }
    for g in range(5):
        metrics = metrics_of(ranks[group == g]) if (group == g).any() else {}
        for name in ("HR@10", "NDCG@10"):
            groups[name].append(metrics.get(name))
    return groups


def of_lists(lists: np.ndarray, data: Interactions, k: int) -> dict[str, float]:
    """Measures the items that users are recommended.

    - ``coverage``: the share of all items that at least one list has;
    - ``Gini``: how unequally often items are recommended, from 0 (all alike) to 1 (one alone);
    - ``popularity``: the mean training interactions of the recommended items;
    - ``rare``: the share of rare items among the recommended ones. An item is rare if it has no
      more training interactions than four fifths of all items have.

    Args:
        lists: ``int[users, length]``, the items of each user from the best on; 0 is none.
        data: the data set.
        k: the length up to which lists are read.

    Examples:
        >>> from experiments.data.interactions import from_sequences
        >>> data = from_sequences("small", np.array([0, 1, 2, 3, 1, 2, 3]), np.array([4, 3]))
        >>> of_lists(np.array([[2, 1], [2, 3]]), data, k=2)
        {'coverage@2': 0.75, 'Gini@2': 0.375, 'popularity@2': 1.25, 'rare@2': 0.5}
    """
    counts = np.bincount(lists[:, :k].ravel(), minlength=data.num_items + 1)[1:]
    popularity, total = data.training_counts()[1:], counts.sum()
    rare = popularity <= np.quantile(popularity, 0.8, method="lower")
    # Half the mean difference of two items, over the mean.
    places = 2 * np.arange(1, counts.size + 1) - counts.size - 1
    measured = {
        "coverage": (counts > 0).mean(),
        "Gini": (places * np.sort(counts)).sum() / (counts.size * total),
        "popularity": (counts * popularity).sum() / total,
        "rare": counts[rare].sum() / total,
    }
    return {f"{name}@{k}": float(value) for name, value in measured.items()}
