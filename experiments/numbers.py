"""The paper's numbers (Tables 2 to 8), and the names of its models, data sets and optimisers.

Rows are laid out as they are printed, so that they can be read beside the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
DATASETS = {
    "beauty": "Beauty",
    "toys": "Toys",
    "tools": "Tools",
    "sports": "Sports",
    "ml-1m": "MovieLens-1M",
    "electronics": "Electronics",
    "clothing": "Clothing",
}
BASELINES = {"lightgcn": "LightGCN", "sr-gnn": "SR-GNN", "lessr": "LESSR", "maerec": "MAERec"}
"""The models of Table 2 that are trained without SEvo alone."""
BACKBONES = {
    "mf-bpr": "MF-BPR",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "stosa": "STOSA",
}
"""The models of Table 2 that are trained with SEvo too."""
MODELS = BASELINES | BACKBONES
PLAIN, UNSMOOTHED, SEVO = "adam", "adamw", "sevo-adamw"
"""The optimisers of the paper's runs; and ours between them, with SEvo's settings unsmoothed."""
LABELS = {
    "adam": "Adam, as published",
    "adamw": "AdamW, SEvo's settings",
    "sevo-adamw": "SEvo-AdamW",
    "sevo-adam": "SEvo-Adam",
    "sgd": "SGD",
    "sevo-sgd": "SEvo-SGD",
}
"""The names of optimisers, those of the paper first."""
SEEDS = (0, 1, 2, 3, 4)

AVERAGE_LENGTH = {
    "beauty": 8.9,
    "toys": 8.6,
    "tools": 8.1,
    "ml-1m": 165.5,
    "electronics": 9.24,
    "clothing": 9.25,
}
"""Interactions of a user, as Table 1 rounds them."""

_COLUMNS = [(model, PLAIN) for model in BASELINES] + [
    (model, optimizer) for model in BACKBONES for optimizer in (PLAIN, SEVO)
]
_TABLE_2 = {  # a row for each metric, in units of 1e-4
    "beauty": (
        (74, 59, 88, 113, 71, 76, 61, 94, 120, 154, 157, 172, 166, 216),
        (289, 247, 322, 424, 272, 293, 233, 326, 404, 499, 479, 522, 479, 544),
        (472, 406, 506, 662, 454, 480, 395, 524, 634, 759, 716, 772, 680, 774),
        (181, 152, 205, 269, 170, 184, 146, 209, 262, 328, 319, 350, 327, 383),
        (240, 203, 264, 346, 228, 244, 198, 273, 336, 411, 395, 430, 391, 457),
    ),
    "toys": (
        (87, 100, 126, 171, 79, 99, 59, 80, 172, 192, 160, 175, 232, 267),
        (279, 294, 352, 532, 267, 306, 209, 276, 506, 584, 430, 492, 571, 625),
        (456, 439, 513, 796, 427, 477, 345, 446, 727, 844, 645, 723, 776, 872),
        (183, 198, 240, 355, 174, 203, 134, 179, 342, 392, 297, 336, 406, 453),
        (240, 245, 292, 440, 225, 258, 177, 234, 413, 475, 366, 410, 472, 532),
    ),
    "tools": (
        (67, 46, 45, 83, 58, 71, 53, 58, 99, 108, 74, 87, 95, 133),
        (212, 162, 157, 271, 187, 225, 174, 208, 317, 337, 244, 279, 276, 350),
        (326, 260, 263, 423, 293, 348, 272, 336, 466, 497, 405, 441, 417, 502),
        (140, 103, 101, 177, 123, 147, 114, 133, 210, 223, 159, 183, 186, 244),
        (176, 135, 135, 226, 157, 187, 145, 174, 258, 274, 211, 235, 231, 293),
    ),
    "ml-1m": (
        (124, 383, 513, 439, 117, 133, 487, 487, 490, 517, 681, 733, 457, 510),
        (495, 1297, 1665, 1563, 470, 509, 1625, 1663, 1599, 1670, 2069, 2127, 1409, 1569),
        (866, 2009, 2539, 2462, 836, 876, 2522, 2568, 2492, 2567, 3018, 3075, 2185, 2356),
        (307, 842, 1092, 1003, 291, 319, 1061, 1075, 1046, 1096, 1387, 1437, 932, 1041),
        (427, 1071, 1373, 1292, 408, 436, 1350, 1366, 1333, 1385, 1693, 1743, 1181, 1295),
    ),
}
Scores = tuple[float | None, ...]
"""One value for each of `METRICS`, None where the paper has none."""
TABLE_2: dict[tuple[str, str, str], Scores] = {
    (model, dataset, optimizer): tuple(score / 10_000 for score in scores)
    for dataset, rows in _TABLE_2.items()
    for (model, optimizer), scores in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
}
"""Test metrics by model, data set and optimiser, the means of five seeds."""
TABLE_2_DATASETS = tuple(_TABLE_2)
USER_ITEM_GRAPH: dict[str, Scores] = {
    "beauty": (0.0071, 0.0281, 0.0461, 0.0175, 0.0233),
    "toys": (0.0084, 0.0288, 0.0447, 0.0187, 0.0237),
}
"""MF-BPR with users and items smoothed together, from the authors' published runs."""

TABLE_4: dict[tuple[str, str, float], Scores] = {
    ("ml-1m", "item-item", 0.0): (0.0457, None, 0.2482, None, 0.1315),
    ("ml-1m", "item-item", 0.5): (0.0494, None, 0.2538, None, 0.1362),
    ("ml-1m", "item-item", 0.99): (0.0517, None, 0.2567, None, 0.1385),
    ("ml-1m", "category", 0.5): (0.0492, None, 0.2527, None, 0.1352),
    ("ml-1m", "category", 0.99): (0.0508, None, 0.2549, None, 0.1371),
}
"""Test metrics of SASRec by data set, graph and β; without smoothing any graph is as good."""
TABLE_5: dict[str, Scores] = {
    "teacher": (0.0198, 0.0544, 0.0786, 0.0374, 0.0452),
    "plain": (0.0094, 0.0327, 0.0526, 0.0210, 0.0275),
    "kd": (0.0105, 0.0352, 0.0552, 0.0229, 0.0294),
    "rkd": (0.0082, 0.0311, 0.0515, 0.0196, 0.0262),
    "htd": (0.0085, 0.0344, 0.0549, 0.0215, 0.0281),
    "dkd": (0.0138, 0.0389, 0.0577, 0.0265, 0.0325),
    "sevo": (0.0107, 0.0364, 0.0576, 0.0236, 0.0304),
    "sevo+dkd": (0.0166, 0.0407, 0.0568, 0.0289, 0.0341),
}
"""Test metrics on Beauty by method, the means of five seeds."""
TABLE_6: dict[tuple[str, str, str], Scores] = {
    ("lessr", "beauty", PLAIN): (0.0088, 0.0322, 0.0506, 0.0205, 0.0264),
    ("lessr", "beauty", SEVO): (0.0126, 0.0405, 0.0625, 0.0267, 0.0338),
    ("maerec", "beauty", PLAIN): (0.0113, 0.0424, 0.0662, 0.0269, 0.0346),
    ("maerec", "beauty", SEVO): (0.0120, 0.0441, 0.0677, 0.0283, 0.0358),
}
"""Test metrics of two graph neural networks, by the keys of `TABLE_2`."""
TABLE_6_MODELS = tuple(dict.fromkeys(model for model, _, _ in TABLE_6))
_TABLE_7 = {  # HR@1, HR@10 and NDCG@10 in units of 1e-4, a row for each L
    "beauty": (
        (124, 664, 353), (140, 717, 388), (152, 740, 403), (154, 759, 411), (153, 755, 408),
        (150, 750, 403)),
    "ml-1m": (
        (465, 2487, 1321), (498, 2562, 1372), (511, 2589, 1389), (517, 2567, 1385),
        (510, 2576, 1383), (492, 2581, 1382)),
}  # fmt: skip
TABLE_7: dict[tuple[str, int], Scores] = {
    (dataset, num_layers): (hr_1 / 10_000, None, hr_10 / 10_000, None, ndcg_10 / 10_000)
    for dataset, rows in _TABLE_7.items()
    for num_layers, (hr_1, hr_10, ndcg_10) in enumerate(rows)
}
"""Test metrics of SASRec with SEvo by data set and number of layers."""


class LargeScale(NamedTuple):
    """A column of Table 3: SASRec on a data set, with an optimiser."""

    hr_1: float
    hr_10: float
    ndcg_10: float
    seconds_per_epoch: float
    epochs: int


TABLE_3 = {
    ("electronics", PLAIN): LargeScale(0.0033, 0.0208, 0.0103, 19.94, 100),
    ("electronics", SEVO): LargeScale(0.0063, 0.0293, 0.0159, 19.94 + 2.22, 150),
    ("clothing", PLAIN): LargeScale(0.0071, 0.0360, 0.0199, 25.20, 400),
    ("clothing", SEVO): LargeScale(0.0171, 0.0626, 0.0377, 25.20 + 8.27, 300),
}
"""Measured on an RTX 3090."""


class Times(NamedTuple):
    """Seconds of a whole training and of one inference, and the epochs of the training."""

    training: float
    inference: float
    epochs: int


_TABLE_8 = {  # beauty, toys, tools, ml-1m
    ("lightgcn", PLAIN): (
        (2000.50, 1.07, 1000), (1461.14, 0.97, 900), (922.60, 0.78, 600), (6898.42, 1.95, 600)),
    ("sr-gnn", PLAIN): (
        (25837.60, 14.52, 300), (13711.61, 11.82, 200), (9455.18, 12.23, 150),
        (126129.93, 6.16, 150)),
    ("lessr", PLAIN): (
        (19686.60, 14.35, 300), (15923.59, 9.67, 300), (10994.38, 8.30, 300),
        (203226.08, 5.02, 300)),
    ("maerec", PLAIN): (
        (23956.43, 3.60, 100), (43233.90, 2.60, 200), (16920.16, 2.31, 100),
        (42586.58, 2.41, 200)),
    ("mf-bpr", PLAIN): (
        (1781.65, 0.96, 1000), (1508.73, 0.91, 1000), (1326.93, 0.71, 1000), (6837.01, 1.95, 600)),
    ("mf-bpr", SEVO): (
        (1937.32, 0.96, 1000), (1572.91, 0.91, 1000), (1510.23, 0.71, 1000), (7128.00, 1.95, 600)),
    ("gru4rec", PLAIN): (
        (927.98, 1.98, 300), (646.51, 1.77, 300), (638.57, 1.65, 300), (12116.04, 1.78, 300)),
    ("gru4rec", SEVO): (
        (987.47, 1.98, 300), (791.19, 1.77, 300), (661.83, 1.65, 300), (12387.25, 1.78, 300)),
    ("sasrec", PLAIN): (
        (445.68, 2.16, 200), (413.35, 2.30, 200), (353.10, 1.81, 200), (919.27, 1.24, 200)),
    ("sasrec", SEVO): (
        (469.27, 2.16, 200), (480.37, 2.30, 200), (378.25, 1.81, 200), (954.77, 1.24, 200)),
    ("bert4rec", PLAIN): (
        (1470.76, 2.03, 500), (1330.58, 1.71, 500), (1092.10, 1.51, 500), (1131.62, 1.18, 500)),
    ("bert4rec", SEVO): (
        (1965.97, 2.03, 500), (1595.66, 1.71, 500), (1374.72, 1.51, 500), (1243.08, 1.18, 500)),
    ("stosa", PLAIN): (
        (2253.98, 9.84, 500), (2049.00, 8.42, 500), (1827.60, 6.65, 500), (2220.18, 1.98, 500)),
    ("stosa", SEVO): (
        (2491.54, 9.84, 500), (2231.11, 8.42, 500), (1879.62, 6.65, 500), (2259.66, 1.98, 500)),
}  # fmt: skip
TABLE_8 = {
    (model, dataset, optimizer): Times(*times)
    for (model, optimizer), row in _TABLE_8.items()
    for dataset, times in zip(TABLE_2_DATASETS, row, strict=True)
}
"""Measured on a GTX 1080 Ti."""

DEFECTS = {
    "sr-gnn": "The published SR-GNN lacks a transpose: both halves of its graph network read the "
    "items that come after, none those before, and the last item gets biases alone. It was "
    "probably trained by BPR with one negative. Ours reads both directions, and is trained by "
    "cross-entropy, as its authors' is; but at the constant rate of 5e-3 that its published run "
    "has, where its authors divide 1e-3 by ten every three epochs.",
    "lessr": "The published LESSR sends messages along the wrong edges where a session's edges are "
    "not sorted, feeds zeros to its recurrent layers, drops the self-connection out, has "
    "consecutive items in place of all shortcuts and keys in place of values there, reads the last "
    "item's raw features out, and was probably trained by BPR with one negative, in four layers. "
    "Ours is as its authors define it, trained by cross-entropy, with the rate of dropout and the "
    "decay that were tuned for the published one; a last batch that is not full counts, too.",
    "stosa": "The published STOSA passes the means of items through its blocks unchanged, where "
    "its paper's blocks change them; *STOSA, as published* does as the published one.",
    "maerec": "The published MAERec adds the two ids of a removed edge up where the next seeds of "
    "its mask are drawn. Ours draws from both ends.",
}
"""Probable differences between the runs behind the paper's values and the models as defined."""


def defects(models: Iterable[str]) -> list[str]:
    """A paragraph on the models whose published runs had defects, if there are any."""
    found = [DEFECTS[model] for model in dict.fromkeys(models) if model in DEFECTS]
    return (
        [" ".join([*found, "Rows that differ so need not agree with the paper's."])]
        if found
        else []
    )


def dataset_name(dataset: str) -> str:
    """Returns a data set's name for reading; that of a file stays."""
    return DATASETS.get(dataset, dataset)
