"""Figure 6: maps of SASRec's item embeddings, coloured by category, under each graph and β.

They are those of Table 4's runs: the best epochs, as their checkpoints have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import sevo_jax
from experiments import numbers
from experiments.data import Categories, Interactions, at_hand, load_categories
from experiments.errors import UserError
from experiments.numbers import SEVO
from experiments.pages import plots
from experiments.pages.documents import NONE, Document, Table
from experiments.paper import accuracy_tables
from experiments.run import Run
from experiments.settings.published import published
from experiments.tables import requests, rows, runs
from experiments.tables.rows import Row
from experiments.training import prepare
from experiments.training.checkpoints import restore_best_params
from experiments.training.graphs import category_graph, item_graph

MODEL = "sasrec"
NEIGHBOURS = 10
COLOURED = 6
"""The number of categories that have a colour."""
UMAP_SEED = 0
GREY = "0.85"
_ROWS_PER_BLOCK = 1024
HEADER = (
    "Embeddings",
    "Smoothness over categories",
    "Smoothness over interactions",
    f"Of {NEIGHBOURS} neighbours, share a category",
    "Epochs",
    "Best epoch",
)


class Side(NamedTuple):
    """The structure of items ``1 … num_items``, for embeddings to be held against; 0 is padding."""

    by_category: sevo_jax.Graph
    by_interaction: sevo_jax.Graph
    colours: np.ndarray
    """``int[num_items]``: which of the `COLOURED` categories, -1 for none."""
    names: list[str]
    """The categories that have a colour, for the legend."""


class Map(NamedTuple):
    """The embeddings of a run.

    Attributes:
        points: ``float[num_items, 2]``, by UMAP.
        over_categories: smoothness by the squared norm, over the graph of categories.
        over_interactions: the same over the graph of interactions.
        shared: of each item's nearest neighbours by cosine, the share that has a category in
            common with it.
    """

    points: np.ndarray
    over_categories: float
    over_interactions: float
    shared: float


def make(request: requests.Request) -> int:
    """Runs what is missing, and draws what has a checkpoint."""
    request = requests.quick_look(request)
    usual = accuracy_tables.DATASETS_4[0]
    default = usual if at_hand(usual, request.data_dir) and not request.quick else "beauty"
    dataset, seed = requests.choose_one(request, default, quick=True)
    interactions = runs.load_one(dataset, request.data_dir)
    side = make_side(interactions, load_categories(interactions))
    wanted = accuracy_tables.rows_by_category(dataset)
    if request.quick:
        wanted = [rows.quick_row(row) for row in wanted]
    order = [rows.run_of(row, seed, request.epochs) for row in wanted]
    maps: dict[Run, Map] = {}
    lost: dict[Run, str] = {}

    def draw_new(outcomes: runs.Outcomes) -> Document:
        for run in order:
            if runs.is_finished(run, outcomes[run]) and run not in maps and run not in lost:
                try:
                    table = load_table(run, interactions, runs.folder_of(run, request.runs))
                except UserError as error:
                    lost[run] = f"{error}. {command(run, request)} makes one"
                else:
                    maps[run] = make_map(table, side)
        return compose(wanted, order, outcomes, maps, lost, side)

    return runs.carry_out(order, request, draw_new, {dataset: interactions})


def command(run: Run, request: requests.Request) -> str:
    """The command that trains the figure's runs anew, in a folder of their own."""
    options: dict[str, object] = {"datasets": run.dataset, "seeds": run.seed, "runs": "NEW_FOLDER"}
    options |= {} if request.epochs is None else {"epochs": request.epochs}
    options |= {"quick": True} if request.quick else {}
    return f"`{requests.command('figure6', **options)}`"


def load_table(run: Run, data: Interactions, folder: Path) -> Float[Array, "nodes dim"]:
    """The item embeddings of a run's best epoch, padding's first.

    Raises:
        UserError: there is no checkpoint, or not one of this run.
    """
    params = nnx.state(prepare.make_model(run, prepare.used_users(run, data)), nnx.Param)
    stored: Any = restore_best_params(folder, params)
    return stored["item_embedding"]["embedding"][...]


def make_side(data: Interactions, categories: Categories) -> Side:
    """The graphs, and the largest categories that make edges.

    An item of several of them has the colour of the smallest.
    """
    sizes = np.array([members.size for members in categories.members])
    fit = np.arange(sizes.size)
    if categories.max_size is not None:
        fit = fit[sizes <= categories.max_size]
    largest = fit[np.argsort(-sizes[fit], kind="stable")][:COLOURED]
    colours = np.full(data.num_items, -1)
    for colour, category in enumerate(largest):  # smaller ones later
        colours[categories.members[category] - 1] = colour
    names = [f"{categories.names[i]} ({sizes[i]:,} items)" for i in largest]
    interactions = item_graph(data, published(MODEL, data.name, SEVO).graph.max_len_graph)
    return Side(category_graph(data), interactions, colours, names)


def make_map(table: Float[Array, "nodes dim"], side: Side) -> Map:
    """Measures a table, and maps it to two dimensions."""
    table = jnp.asarray(table).at[0].set(0)  # padding belongs to no category
    norm = (table**2).sum()
    over_categories, over_interactions = (
        float(sevo_jax.diagnostics.smoothness(graph, table) / norm)
        for graph in (side.by_category, side.by_interaction)
    )
    items = np.asarray(table)[1:]
    shared = share_of_neighbours(items, side.by_category)
    return Map(project(items), over_categories, over_interactions, shared)


def project(items: np.ndarray) -> np.ndarray:
    """UMAP of embeddings by cosine: ``float[items, 2]``, the same for the same embeddings."""
    import umap  # here, since its compiler takes long to load

    reducer: Any = umap.UMAP(metric="cosine", random_state=UMAP_SEED, n_jobs=1)
    return np.asarray(reducer.fit_transform(items))


def share_of_neighbours(items: np.ndarray, graph: sevo_jax.Graph) -> float:
    """The share of items' `NEIGHBOURS` nearest that are joined with them; node 0 is no item."""
    nearest = nearest_neighbours(jnp.asarray(items), min(NEIGHBOURS, len(items) - 1)) + 1
    joined: sp.csr_array = graph.to_scipy(normalized=False)
    own = np.repeat(np.arange(1, len(items) + 1), nearest.shape[1])
    return float((joined[own, nearest.ravel()] > 0).mean())


def nearest_neighbours(items: Float[Array, "items dim"], k: int) -> Int[np.ndarray, "items k"]:
    """The nearest items by cosine; an item is no neighbour of its own."""
    unit = items / jnp.maximum(jnp.linalg.norm(items, axis=1, keepdims=True), 1e-12)

    @jax.jit
    def nearest(first: Any, rows: Array) -> Array:
        own = first + jnp.arange(rows.shape[0])
        similar = (rows @ unit.T).at[jnp.arange(rows.shape[0]), own].set(-jnp.inf)
        return jax.lax.top_k(similar, k)[1]

    blocks = range(0, len(items), _ROWS_PER_BLOCK)
    return np.concatenate([np.asarray(nearest(i, unit[i : i + _ROWS_PER_BLOCK])) for i in blocks])


def compose(
    wanted: Sequence[Row],
    order: Sequence[Run],
    outcomes: runs.Outcomes,
    maps: Mapping[Run, Map],
    lost: Mapping[Run, str],
    side: Side,
) -> Document:
    """The page: the measurements, and the picture."""
    held = [(row, run, maps.get(run)) for row, run in zip(wanted, order, strict=True)]
    joined = side.by_category.to_scipy(normalized=False)
    items = side.colours.size
    chance = joined.nnz / (items * (items - 1))
    name = numbers.dataset_name(order[0].dataset)
    absent = [
        *runs.missing(order, outcomes),
        *(f"{row.label}: {lost[run]}" for row, run, _ in held if run in lost),
    ]
    results = {run: outcomes[run].result or {} for run in order}
    usual = published(MODEL, order[0].dataset, SEVO).training.epochs
    for epochs, count in sorted(Counter(results[run]["epochs"] for run in maps).items()):
        if epochs < usual:
            absent.append(f"{count} maps stopped early: {epochs} of {usual} epochs")
    lines = [[row.label, *_cells(own, results[run], usual)] for row, run, own in held]
    return Document(
        name="figure6",
        title="Figure 6: item embeddings by category",
        text=[
            f"UMAP (umap-learn, cosine, seed {UMAP_SEED}, otherwise its defaults) of the item "
            f"embeddings of SASRec on {name}, seed {order[0].seed}, at the epoch of the best "
            f"validation. Coloured are the {len(side.names)} largest of the categories that make "
            "edges, an item of several by the smallest; all others are grey. (The paper's figure "
            "has MovieLens-1M, whose genres it joins to six groups.)",
            "*Smoothness* is Tr(E' L~ E) / ‖E‖², the lower, the more alike are items that share a "
            "category or follow each other. *Neighbours* are the nearest by cosine in the 64 "
            "dimensions, not on the map; categories are those that make edges, of which "
            f"{chance:.1%} of all pairs have one in common.",
        ],
        tables=[Table(f"{name}: what the maps show, measured", HEADER, lines)],
        missing=absent,
        content={
            "table": "figure6",
            "dataset": order[0].dataset,
            "seed": order[0].seed,
            "neighbours": NEIGHBOURS,
            "share_of_all_pairs": chance,
            "coloured": side.names,
            "maps": [
                {
                    **row.settings,
                    "smoothness_over_categories": own.over_categories,
                    "smoothness_over_interactions": own.over_interactions,
                    "share_of_neighbours": own.shared,
                    "epochs": results[run]["epochs"],
                    "best_epoch": results[run]["best_epoch"],
                }
                for row, run, own in held
                if own is not None
            ],
            "missing": absent,
        },
        draw=(lambda path: draw(held, side, path)) if maps else None,
        alt="Maps of the item embeddings in the plane, one for each graph and β, coloured by "
        "category",
    )


def _cells(own: Map | None, result: dict[str, Any], published: int) -> list[str]:
    if own is None:
        return [NONE] * (len(HEADER) - 1)
    return [
        f"{own.over_categories:.3f}",
        f"{own.over_interactions:.3f}",
        f"{own.shared:.1%}",
        f"{result['epochs']} of {published}",
        str(result["best_epoch"]),
    ]


def draw(held: Sequence[tuple[Row, Run, Map | None]], side: Side, path: Path) -> None:
    """A row of panels for each graph, with more smoothing to the right; β = 0 is of both."""
    with plots.picture(path, (12, 8), 2, 3) as (_, grid):
        legend = grid[1, 0]
        panels = [*grid[0], *grid[1, 1:]]
        for (row, _, own), axes in zip(held, panels, strict=False):
            axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
            _draw_map(axes, row.label, own, side)
        legend.axis("off")
        signs = [
            Line2D([], [], color=color, marker="o", ls="", label=f"category {name}")
            for name, color in zip(side.names, plots.COLORS, strict=False)
        ]
        signs.append(Line2D([], [], color=GREY, marker="o", ls="", label="other items"))
        legend.legend(handles=signs, loc="center", fontsize="medium")
        for text in legend.get_legend().get_texts():
            text.set_parse_math(False)  # names of categories may have dollars


def _draw_map(axes: Axes, title: str, own: Map | None, side: Side) -> None:
    if own is None:
        axes.text(0.5, 0.5, "missing", ha="center", va="center", transform=axes.transAxes)
    else:
        title += f"\n{own.shared:.1%} of neighbours share a category"
        dots: dict[str, Any] = {"s": 3, "linewidths": 0, "rasterized": True}
        axes.scatter(*own.points[side.colours < 0].T, color=GREY, **dots)
        for colour in range(len(side.names)):
            axes.scatter(*own.points[side.colours == colour].T, color=plots.COLORS[colour], **dots)
    axes.set_title(title, fontsize="medium")
