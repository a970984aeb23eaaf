"""``python -m experiments.recommend``: from a run's folder to items for users."""

from __future__ import annotations

import json
import re
import shutil
import threading

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from flax import nnx

from experiments import recommend, train
from experiments.data import load
from experiments.errors import UserError
from experiments.run import Run, checksums_of
from experiments.serving.recommender import Recommender
from experiments.settings import Settings
from experiments.settings.published import reads
from experiments.training import loop
from experiments.training.checkpoints import open_checkpoints, restore_checkpoint
from experiments.training.finished import read_run
from experiments.training.prepare import initial_checkpoint, make_setup
from models.settings import SASRecSettings
from tests.runs import runs_of

TINY = ["--dim", "16", "--batch-size", "64", "--epochs", "1"]


def train_on(users_file, out, model: str, *options: str):
    options = ("--dataset", str(users_file), "--optimizer", "adamw", *TINY, *options)
    if reads(model, "adamw", {}, "max_len"):
        options = (*options, "--max-len", "20")
    assert train.main(["--model", model, *options, "--out", str(out)]) == 0
    return out / f"{model}-adamw-seed0"


@pytest.fixture(scope="module")
def sasrec_run(users_file, tmp_path_factory):
    """A finished run."""
    return train_on(users_file, tmp_path_factory.mktemp("sasrec"), "sasrec", "--num-blocks", "1")


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("bert4rec", "lightgcn")]


@pytest.fixture(scope="module", params=["sasrec", *OTHERS])
def run(request, users_file, tmp_path_factory):
    """One of each kind of task, SASRec's on all users and LightGCN's on a share of them."""
    if request.param == "sasrec":
        return request.getfixturevalue("sasrec_run")
    options = ["--num-blocks", "1"] if request.param == "bert4rec" else ["--user-share", "0.5"]
    return train_on(users_file, tmp_path_factory.mktemp("run"), request.param, *options)


def seen_items(data) -> dict:
    """The items of each user, by the data set's own ids."""
    items = np.split(data.item_ids[data.items - 1], data.starts[1:])
    return dict(zip(data.user_ids.tolist(), map(set, map(np.ndarray.tolist, items)), strict=True))


def test_the_best_unseen_items(run):
    _, data = read_run(run)
    found = Recommender.load(run).recommend(top_k=5)
    assert found.columns == ["user", "rank", "item", "score"]
    assert found["user"].unique(maintain_order=True).to_list() == data.user_ids.tolist()
    seen = seen_items(data)
    for (user,), rows in found.group_by("user", maintain_order=True):
        assert rows["rank"].to_list() == [1, 2, 3, 4, 5]
        assert rows["score"].is_sorted(descending=True)
        assert rows["item"].n_unique() == 5
        assert not set(rows["item"].to_list()) & seen[user]


def test_chosen_users_get_what_they_get_among_all(run):
    _, data = read_run(run)
    chosen = data.user_ids[[7, 0, 30]].tolist()
    some = Recommender.load(run).recommend(users=chosen, top_k=4)
    assert some["user"].unique(maintain_order=True).to_list() == chosen
    everyone = Recommender.load(run).recommend(top_k=4)
    for user in chosen:
        one, other = (f.filter(pl.col("user") == user)["item"].to_list() for f in (some, everyone))
        assert one == other


def test_the_scores_are_the_models(sasrec_run, users_file):
    """All items of a user, against scores of the model on that user's row alone."""
    run, data = read_run(sasrec_run)
    setup = make_setup(run, data)
    with open_checkpoints(sasrec_run) as saved:
        params = restore_checkpoint(saved, initial_checkpoint(run, setup, data)).best_params
    model = nnx.merge(setup.graphdef, params)
    items = data.items[data.starts[3] : data.starts[3] + data.lengths[3]][-20:]
    row = jnp.asarray(items)[None]
    positions = jnp.arange(20 - items.size, 20)[None]
    scores = np.asarray(model.scores(model(row, jnp.ones_like(row), positions)[:, -1]))[0]
    found = Recommender.load(sasrec_run).recommend(users=[data.user_ids[3]], top_k=10**6)
    assert found.height == data.num_items - len(set(items.tolist()))
    by_id = dict(zip(data.item_ids.tolist(), scores.tolist(), strict=True))
    want = [by_id[item] for item in found["item"].to_list()]
    np.testing.assert_allclose(found["score"].to_numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_the_command_writes_a_file(sasrec_run, users_file, tmp_path, name, monkeypatch):
    monkeypatch.setattr("experiments.evaluation.USERS_PER_BLOCK", 64)  # several blocks
    out = tmp_path / name
    assert recommend.main([str(sasrec_run), "--out", str(out), "--top-k", "3"]) == 0
    read = pl.read_parquet if out.suffix == ".parquet" else pl.read_csv
    assert read(out).height == 3 * load(str(users_file)).num_users
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_command_prints(sasrec_run, users_file, capsys):
    users = [str(user) for user in load(str(users_file)).user_ids[:2]]
    assert recommend.main([str(sasrec_run), "--users", *users, "--top-k", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Items, best first" in printed
    assert all(user in printed for user in users)


def histories_of(data, users) -> dict:
    """Returns the items that users of the data have met, under other names."""
    own = np.split(data.item_ids[data.items - 1], data.starts[1:])
    return {f"new-{data.user_ids[user]}": own[user].tolist() for user in users}


def rows_of(found: pl.DataFrame) -> list[tuple]:
    return [(rank, item) for _, rank, item, _ in found.iter_rows()]


@pytest.mark.parametrize("form", ["mapping", "histories.csv", "histories.txt"])
def test_a_history_gets_what_a_user_of_the_data_with_the_same_items_gets(
    run, form, tmp_path, monkeypatch
):
    """In blocks, of which a layout holds some."""
    monkeypatch.setattr("experiments.evaluation.USERS_PER_BLOCK", 2)
    monkeypatch.setattr("experiments.serving.recommender.USERS_AT_ONCE", 4)
    recommender = Recommender.load(run)
    if recommender.run.model == "lightgcn":
        pytest.skip("it has a vector for each of its users")
    users = [7, 0, 30, 2, 9]
    histories = histories_of(recommender.data, users)
    file = tmp_path / form
    if file.suffix == ".csv":
        rows = [f"{user},{i},{t}" for user, own in histories.items() for t, i in enumerate(own)]
        file.write_text("\n".join(["user,item,time", *sorted(rows)]))
    elif file.suffix == ".txt":
        lines = enumerate(histories.values(), 1)
        file.write_text("\n".join(" ".join(map(str, (n, *own))) for n, own in lines))
    found = recommender.recommend(file if file.exists() else histories, top_k=4)
    if file.suffix == ".csv":  # users of tables are sorted
        users = [users[place] for place in np.argsort(list(histories))]
    want = recommender.recommend(users=recommender.data.user_ids[users], top_k=4)
    assert rows_of(found) == rows_of(want)
    np.testing.assert_allclose(found["score"], want["score"], rtol=1e-5, atol=1e-6)


def test_what_the_data_lacks_is_skipped_and_said(sasrec_run, tmp_path, capsys, monkeypatch):
    """Users without a known item come last; the popular items have no score."""
    recommender = Recommender.load(sasrec_run)
    data = recommender.data
    known = data.item_ids[data.items[:3] - 1].tolist()
    said = []
    histories = {"none": ["x", "y"], "ann": [known[0], "x", *known[1:]], "empty": []}
    monkeypatch.setattr("experiments.serving.recommender.STRANGERS_AT_ONCE", 1)
    found = recommender.recommend(histories, top_k=3, report=said.append)
    assert found["user"].unique(maintain_order=True).to_list() == ["ann", "none", "empty"]
    same = recommender.recommend({"ann": known}, top_k=3)
    assert rows_of(found)[:3] == rows_of(same)
    counts = np.bincount(data.items[data.training_part()], minlength=data.num_items + 1)
    popular = data.item_ids[np.argsort(-counts[1:], kind="stable")[:3]].tolist()
    assert [item for _, item in rows_of(found)[3:]] == [*popular, *popular]
    assert found["score"].is_null().to_list() == [*[False] * 3, *[True] * 6]
    assert said[0].startswith("histories: skipped 2 items that ")
    assert said[1].startswith("histories: 2 users without a known item get the most popular items")
    with pytest.warns(UserWarning, match="skipped 1 items that .* lacks \\(x\\)"):
        recommender.recommend({"ann": [*known, "x"]})
    file = tmp_path / "new.csv"
    file.write_text(f"user,item\nann,{known[0]}\nann,x\n")
    assert recommend.main([str(sasrec_run), "--history", str(file)]) == 0
    printed = capsys.readouterr()
    assert "skipped 1 items" in printed.err
    assert "new.csv: has no column of times" in printed.err
    assert "ann" in printed.out


def test_only_candidates_are_recommended(sasrec_run, tmp_path, capsys):
    recommender = Recommender.load(sasrec_run)
    data = recommender.data
    wanted = data.item_ids[[5, 2, 11, 30]].tolist()
    found = recommender.recommend(candidates=wanted, include_seen=True)
    assert found.height == 4 * data.num_users
    assert set(found["item"]) == set(wanted)
    everything = recommender.recommend(top_k=10**6, include_seen=True)
    assert everything.height == data.num_items * data.num_users
    kept = everything.filter(pl.col("item").is_in(wanted))
    assert [item for _, item in rows_of(found)] == kept["item"].to_list()
    for name, text in (("c.txt", "{}\n\n{}\nx\n"), ("c.csv", "item,name\n{},a\n{},b\nx,c\n")):
        (tmp_path / name).write_text(text.format(*wanted[:2]))
        options = ["--candidates", str(tmp_path / name), "--out", str(tmp_path / "out.parquet")]
        assert recommend.main([str(sasrec_run), "--include-seen", *options]) == 0
        assert "candidates: skipped 1 items" in capsys.readouterr().err
        assert set(pl.read_parquet(tmp_path / "out.parquet")["item"]) == set(wanted[:2])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("history", "person,thing\n1,2\n", "history.csv: .* column"),
        ("history", "user,item\n", "history.csv: holds no interactions"),
        ("candidates", "item\nnothing\nnil\n", "--candidates: .* none of these items"),
        ("candidates", "thing\n1\n", "candidates.csv: .* column"),
    ],
)
def test_bad_files(sasrec_run, tmp_path, capsys, name, text, message):
    file = tmp_path / f"{name}.csv"
    file.write_text(text)
    assert recommend.main([str(sasrec_run), f"--{name}", str(file)]) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_model_that_knows_its_users_alone(users_file, tmp_path):
    run = Recommender.load(train_on(users_file, tmp_path, "mf-bpr"))
    with pytest.raises(UserError, match="history: mf-bpr has a vector for each user that it was"):
        run.recommend({"ann": [1]})


@pytest.mark.parametrize("items", [[[7, 8], [9]], [{"x": 1}]])
def test_candidates_that_are_no_ids(sasrec_run, tmp_path, capsys, items):
    file = tmp_path / "c.parquet"
    pl.DataFrame({"item": items}).write_parquet(file)
    assert recommend.main([str(sasrec_run), "--candidates", str(file)]) == 1
    assert "c.parquet: found items that are no ids" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("users", "kind"),
    [([True], pl.String), ([2**70, 1], pl.String), ([-(2**63), 2**63 - 1], pl.Int64)],
)
def test_users_of_any_integer(sasrec_run, users, kind):
    recommender = Recommender.load(sasrec_run)
    histories = {user: [recommender.data.item_ids[0]] for user in users}
    found = recommender.recommend(histories, top_k=1)["user"]
    assert found.dtype == kind
    assert [str(name) for name in found] == [str(user) for user in users]


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "histories: expected one user or more"),
        ({"ann": "12"}, "user 'ann' has a text"),
        ({1: [1], "1": [2]}, "2 users are called '1'"),
    ],
)
def test_histories_that_are_none(sasrec_run, histories, message):
    with pytest.raises(UserError, match=message):
        Recommender.load(sasrec_run).recommend(histories)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--users", "nobody", "-7"], "the run knows no user nobody, -7; expected ids of"),
        (["--users", "1", "1"], "expected one or more different ids"),
        (
            ["--graph", "g.npz"],
            "--graph: {run} was trained with item-item, which is no file; leave",
        ),
        (["--categories", "c.csv"], "--categories: {run} was trained with none, which is no file"),
        (["--top-k", "0"], "--top-k: must be at least 1, got 0"),
        (["--out", "items.xlsx"], "expected a name that ends in .parquet or .csv"),
    ],
)
def test_bad_options(sasrec_run, capsys, options, message):
    assert recommend.main([str(sasrec_run), *options]) == 1
    assert message.format(run=sasrec_run) in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_run_without_a_validation_has_nothing_to_recommend_by(users_file, tmp_path):
    options = ["--dataset", str(users_file), "--optimizer", "adamw", "--num-blocks", "1", *TINY]
    run = runs_of([*options, "--epochs", "2"])[0]  # stopped between the two
    stop = threading.Event()
    stop.set()
    with pytest.raises(loop.Interrupted):
        loop.train(run, load(str(users_file)), tmp_path, stop=stop)
    with pytest.raises(UserError, match="was interrupted before its first validation"):
        Recommender.load(tmp_path).recommend()


def test_a_file_that_cannot_be_written_leaves_nothing(sasrec_run, tmp_path, capsys):
    (tmp_path / "items.parquet").mkdir()
    assert recommend.main([str(sasrec_run), "--out", str(tmp_path / "items.parquet")]) == 1
    assert "items.parquet cannot be written (" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]
    assert recommend.main([str(sasrec_run), "--out", str(tmp_path / "new" / "items.csv")]) == 0


def test_a_user_who_has_met_everything_gets_nothing(tmp_path):
    """The types of string ids stay even where no row tells them."""
    file = tmp_path / "all.csv"
    lines = [f"u{u},i{i},{t}" for u in range(3) for t, i in enumerate(range(6 if u == 0 else 4))]
    file.write_text("\n".join(["user,item,time", *lines]))
    run = train_on(file, tmp_path, "mf-bpr")
    with pytest.warns(UserWarning, match=r"met all items, or all candidates: 1 \(u0\)"):
        assert Recommender.load(run).recommend().group_by("user").len().height == 2
    with pytest.warns(UserWarning, match="nothing is recommended"):
        empty = Recommender.load(str(run)).recommend(users=["u0"])
    assert empty.height == 0
    assert empty.schema["item"] == pl.String
    assert Recommender.load(run).recommend(users=["u1"])["item"].sort().to_list() == ["i4", "i5"]


def test_folders_that_hold_no_run(sasrec_run, tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json; expected the folder of a run"):
        Recommender.load(tmp_path).recommend()
    copy = tmp_path / "copy"
    shutil.copytree(sasrec_run, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model": "mean"}))
    with pytest.raises(UserError, match="unknown model 'mean'"):
        Recommender.load(copy).recommend()
    (copy / "config.json").write_text(json.dumps(config | {"optimizer": "lion"}))
    with pytest.raises(UserError, match="unknown optimizer 'lion'"):
        Recommender.load(copy).recommend()
    (copy / "config.json").write_text(json.dumps(config | {"dim": 0}))
    with pytest.raises(UserError, match="dim: must be at least 1, got 0"):
        Recommender.load(copy).recommend()
    (copy / "config.json").write_text(json.dumps({"model": "sasrec"}))
    with pytest.raises(UserError, match="it lacks dataset, optimizer, seed, data"):
        Recommender.load(copy).recommend()
    (copy / "config.json").write_text(json.dumps(config | {"data": "0" * 16}))
    with pytest.raises(UserError, match="was trained on other data"):
        Recommender.load(copy).recommend()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint"):
        Recommender.load(copy).recommend()


@pytest.fixture
def moved(sasrec_run, users_file, tmp_path, monkeypatch):
    """A run of ``logs/users.txt``, which was in another folder than where we are now."""
    for folder in ("then/logs", "now"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(users_file, tmp_path / "then" / "logs" / "users.txt")
    shutil.copytree(sasrec_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    held = json.dumps(config | {"dataset": "logs/users.txt"})
    (tmp_path / "run" / "config.json").write_text(held)
    monkeypatch.chdir(tmp_path / "now")
    return tmp_path / "run"


def test_a_run_is_used_from_another_folder(moved, users_file, tmp_path, capsys):
    with pytest.raises(UserError, match=r"logs/users.txt, and .*now has no such file; say where"):
        read_run(moved)
    for place in ({"data_dir": tmp_path / "then"}, {"dataset": "../then/logs/users.txt"}):
        assert read_run(moved, **place)[1].num_users == load(str(users_file)).num_users
    user = str(load(str(users_file)).user_ids[0])
    options = [str(moved), "--users", user, "--top-k", "2", "--dataset", str(users_file)]
    assert recommend.main(options) == 0
    assert user in capsys.readouterr().out
    other = tmp_path / "other.txt"
    other.write_text("1 1 2 3 4\n")
    with pytest.raises(UserError, match=r"other data than \S*other.txt now holds .*; say where"):
        read_run(moved, dataset=str(other))


def test_files_of_settings_that_moved(moved, users_file, tmp_path):
    """A run knows its graph again, wherever it is now."""
    (tmp_path / "g.npz").write_text("graph")
    config = json.loads((moved / "config.json").read_text())
    run = Run(
        "sasrec",
        "log",
        "sevo-adamw",
        0,
        Settings(SASRecSettings()).replace(graph=str(tmp_path / "g.npz")),
    )
    config |= {"optimizer": run.optimizer, "graph": "then/g.npz"}
    config["files"] = checksums_of(run)
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"^graph: .* with then/g.npz, and .* say where it"):
        read_run(moved, dataset=str(users_file))
    place = {"graph": str(tmp_path / "g.npz")}
    found, _ = read_run(moved, dataset=str(users_file), moved=place)
    assert found.settings.graph.kind == place["graph"]
    (tmp_path / "g.npz").write_text("another")
    with pytest.raises(UserError, match=r"^graph: .* with .*g.npz, which has changed since"):
        read_run(moved, dataset=str(users_file), moved=place)


def test_ids_that_no_signed_integer_holds(sasrec_run, users_file, tmp_path):
    """The same interactions, the ids 2^63 and more above their own."""
    small = load(str(users_file))
    items = small.item_ids[small.items - 1].astype(np.uint64) + np.uint64(2**63)
    users = np.repeat(small.user_ids, small.lengths).astype(np.uint64) + np.uint64(2**63 + 7)
    file = tmp_path / "log.parquet"
    pl.DataFrame({"user": users, "item": items}).write_parquet(file)
    run, data = tmp_path / "run", load(str(file))
    shutil.copytree(sasrec_run, run)
    config = json.loads((run / "config.json").read_text())
    config |= {"dataset": str(file), "data": data.fingerprint}
    (run / "config.json").write_text(json.dumps(config))
    user = data.user_ids[1]
    options = ["--users", str(user), "--top-k", "3", "--out", str(tmp_path / "best.parquet")]
    assert recommend.main([str(run), *options]) == 0
    found = pl.read_parquet(tmp_path / "best.parquet")
    same = Recommender.load(sasrec_run).recommend(users=[small.user_ids[1]], top_k=3)
    assert found["user"].to_list() == [int(user)] * 3
    assert found["item"].to_list() == [item + 2**63 for item in same["item"].to_list()]
    assert found.schema["item"] == pl.UInt64
