"""The protocol of scores, as the sentences that stand above every table of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SPLITS = {
    "leave-one-out": "leave-one-out: each user's last item tests, the one before it validates",
    "last-n": "last-n: each user's last {last_n} items test, the {last_n} before them validate",
    "time": "time: what is from {test_from} on tests, what is from {valid_from} on before it "
    "validates",
}
"""Each split in words, with the settings that belong to it."""


class Measured(NamedTuple):
    """A run's scores.

    Attributes:
        dataset: the name of its data set, for reading.
        settings: its settings, by their flat names; those left out are the usual ones.
        result: its ``result.json``; empty while it is trained.
    """

    dataset: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]


def protocol(runs: Iterable[Measured]) -> str:
    """Describes the splits of runs, and the users and items that are ranked.

    Examples:
        >>> sizes = {"num_users": 22363, "num_items": 12101}
        >>> split, _, size = protocol([Measured("Beauty", {}, sizes)]).split(". ")
        >>> split
        "Protocol: leave-one-out: each user's last item tests, the one before it validates"
        >>> size
        'Beauty: 12,101 items for 22,363 users.'
    """
    sizes: dict[str, dict[str, None]] = {}
    for dataset, settings, result in runs:
        split = SPLITS[settings.get("split", "leave-one-out")].format_map(settings)
        own = sizes.setdefault(split, {})
        if "num_items" in result:
            users = result.get("ranked_users", result["num_users"])
            own[f"{dataset}: {result['num_items']:,} items for {users:,} users."] = None
    if not sizes:
        return f"Protocol: {SPLITS['leave-one-out']}. {_RANKED}"
    return "\n\n".join(
        " ".join([f"Protocol: {split}. {_RANKED}", *own]) for split, own in sizes.items()
    )


_RANKED = (
    "Ranked are all items but those that the user has met before (the sought ones stay); equal "
    "scores count against."
)
