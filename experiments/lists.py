"""Measures of what a run recommends, whether it is right or not."""

from __future__ import annotations

import numpy as np

from experiments.data import Interactions


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
