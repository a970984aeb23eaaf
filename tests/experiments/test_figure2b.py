"""``python -m experiments.reproduce figure2b``: values against linear algebra, and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.paper import figure2b
from experiments.reproduce import main
from experiments.run import Run
from experiments.settings.published import MODELS, published
from experiments.tables import runs
from experiments.training.graphs import item_graph
from experiments.training.prepare import initial_checkpoint, make_setup
from experiments.training.steps import Epochs

SETTINGS = published("sasrec", "synthetic", "sevo-adamw").replace(
    epochs=2, dim=8, num_blocks=1, max_len=10,
    batch_size=128, dropout_rate=0.0, learning_rate=0.1, beta=0.7, packed=False,
)  # fmt: skip


@pytest.mark.slow
def test_values_are_those_of_dense_linear_algebra(small):
    """The steps, one an epoch, are what the table moved by; inverting ψ gives the original ones."""
    settings, beta = SETTINGS, SETTINGS.optimizer.beta
    run = Run("sasrec", "small", "sevo-adamw", 0, settings)
    setup = make_setup(run, small)
    layouts = setup.layouts(small, 0)
    assert layouts.sequences_per_step.size == 1
    state = initial_checkpoint(run, setup, small).state
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, [layouts], state)
    tables: list[np.ndarray] = []
    for epoch in range(3):
        tables.append(np.array(state.params["item_embedding"]["embedding"][...], np.float64))
        if epoch < 2:
            state, _ = epochs(state, epochs.lay_out(epoch), epoch)
    found = figure2b.measured(state, 2, settings.optimizer)

    graph = item_graph(small, settings.graph.max_len_graph).to_scipy().toarray().astype(np.float64)
    identity = np.eye(len(graph))
    rate, decay = settings.optimizer.learning_rate, settings.optimizer.weight_decay
    smoothed = ((1 - rate * decay) * tables[1] - tables[2]) / rate
    powers = [
        beta**k * np.linalg.matrix_power(graph, k) for k in range(settings.optimizer.num_layers + 1)
    ]
    psi = sum(powers) / sum(beta**k for k in range(settings.optimizer.num_layers + 1))
    original = np.linalg.solve(psi, smoothed)
    stages = original, smoothed, tables[2]
    total = [np.trace(x.T @ (identity - graph) @ x) for x in stages]
    assert found.total == pytest.approx(total, rel=2e-3)
    relative = [j / (x**2).sum() for j, x in zip(total, stages, strict=True)]
    assert found.relative == pytest.approx(relative, rel=2e-3)
    assert total[1] < 0.9 * total[0]

    series = figure2b.follow(run, small)
    assert series["epoch"] == [1, 2]
    assert series["total"][1] == pytest.approx(list(map(float, found.total)), rel=1e-5)


@pytest.fixture
def few_users(small, monkeypatch) -> list[float]:
    """Training that takes no time; the β of every one."""
    followed: list[float] = []

    def made_up(run, data, report):
        followed.append(run.settings.optimizer.beta)
        epochs = list(range(1, run.settings.training.epochs + 1))
        total = [[3.0 * epoch, 1.0 - run.settings.optimizer.beta, 2.0] for epoch in epochs]
        relative = [[0.9, 1.0 - run.settings.optimizer.beta, None] for _ in epochs]
        losses = [1.0 / epoch for epoch in epochs]
        found = {"epoch": epochs, "train_loss": losses, "total": total, "relative": relative}
        return found | {"devices": ["a machine"]}

    monkeypatch.setattr(runs, "load_one", lambda *_: small)
    monkeypatch.setattr(figure2b, "follow", made_up)
    monkeypatch.setattr(figure2b, "BETAS", (0.5, 0.99))
    entry = MODELS["sasrec"]._replace(published=lambda *_: SETTINGS)
    monkeypatch.setitem(MODELS, "sasrec", entry)
    return followed


def test_the_page(few_users, tmp_path, capsys):
    options = ["figure2b", "--datasets", "synthetic", "--out", str(tmp_path)]
    assert main([*options, "--no-train"]) == 0
    assert "- β = 0.5: not trained" in (tmp_path / "figure2b.md").read_text()
    assert main(options) == 0
    assert few_users == [0.5, 0.99]
    content = json.loads((tmp_path / "figure2b.json").read_text())
    assert content["series"].keys() == {"0.5", "0.99"}
    assert content["series"]["0.99"]["epoch"] == [1, 2]
    assert not content["missing"]
    assert (tmp_path / "figure2b.png").stat().st_size > 10_000
    text = (tmp_path / "figure2b.md").read_text()
    relative, total = (text.index(f"J(X){what} after") for what in (" / ‖X‖²", ""))
    assert "| 0.99 | 0.9000 |" in " ".join(text[relative:total].split())
    assert "| 0.0100 | – | 0.5000 |" in " ".join(text[relative:total].split())
    assert "| 0.99 | 6.0 | 0.0 | 2.0 | 0.5000 |" in " ".join(text[total:].split())
    assert r"J(X) / $\Vert$X$\Vert$$^2$" in (tmp_path / "figure2b.tex").read_text()

    assert main(options) == 0  # what is there is kept
    assert few_users == [0.5, 0.99]
    before = (tmp_path / "figure2b.json").read_bytes()
    for more in ([], ["--no-train"]):  # another training does not take its place
        assert main([*options, "--epochs", "1", *more]) == 1
        assert "holds a training in which epochs was 2 and is now 1" in capsys.readouterr().err
    assert (tmp_path / "figure2b.json").read_bytes() == before
    assert few_users == [0.5, 0.99]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "sasrec"], "--models: figure2b does not have it"),
        (["--seeds", "0", "1"], "--seeds: figure2b takes one, got 2"),
        (["--epochs", "0"], "--epochs: must be at least 1, got 0"),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert main(["figure2b", "--out", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err
