"""Checkpoints of a run's folder: which are kept, and what is taken where one is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.checkpoints import (
    Checkpoint,
    open_checkpoints,
    restore_best_params,
    restore_checkpoint,
    resume_checkpoint,
    save_checkpoint,
)
from experiments.epochs import TrainState
from experiments.errors import UserError


def checkpoint(epoch: int) -> Checkpoint:
    """Of which all leaves differ from those of other epochs."""
    params = {"w": jnp.linspace(0, epoch, 600).reshape(30, 20)}
    empty = nnx.State({})
    state = TrainState(params, {"count": jnp.array(epoch)}, empty)
    best = jax.tree.map(jnp.negative, params)
    return Checkpoint(state, best, empty, epoch, epoch, float(epoch), 0.0)


def equal(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def steps(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    with open_checkpoints(tmp_path) as saved:
        for epoch in (1, 2, 3):
            save_checkpoint(saved, checkpoint(epoch), tmp_path)
    return tmp_path


def test_two_are_kept_and_what_a_killed_write_left_is_not(folder):
    assert steps(folder) == {"2", "3"}
    shutil.copytree(folder / "checkpoints" / "3", folder / "checkpoints/4.orbax-checkpoint-tmp")
    with open_checkpoints(folder) as saved:  # as one reads who does not train there
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(3))
    assert "4.orbax-checkpoint-tmp" in steps(folder)
    with open_checkpoints(folder, clean=True) as saved:
        save_checkpoint(saved, checkpoint(4), folder)
    assert steps(folder) == {"3", "4"}


@pytest.mark.parametrize("how", ["one bit", "cut off", "missing"])
def test_a_damaged_file_of_the_newest(folder, capsys, how):
    newest = folder / "checkpoints" / "3"
    files = sorted(file.relative_to(newest) for file in newest.rglob("*") if file.is_file())
    assert len(files) > 5
    rng = np.random.default_rng(0)
    for name in files:
        whole = (newest / name).read_bytes()
        at = rng.integers(len(whole))
        content = bytearray(whole)
        content[at] ^= 1 << rng.integers(8)
        (newest / name).write_bytes(whole[:at] if how == "cut off" else content)
        if how == "missing":
            (newest / name).unlink()
        best = restore_best_params(folder, checkpoint(0).best_params)
        if name.name != "checksums.json" or how == "cut off":
            note = f"{newest.parent}: the checkpoint of epoch 3 cannot be read ("
            assert note in capsys.readouterr().err
            assert equal(best, checkpoint(2).best_params)
        else:  # may still be good
            assert any(equal(best, checkpoint(epoch).best_params) for epoch in (2, 3))
            capsys.readouterr()
        (newest / name).write_bytes(whole)


def test_what_is_damaged_is_written_again(folder, capsys):
    newest = folder / "checkpoints" / "3"
    (newest / "checksums.json").write_text('{"default/d/arrays": "0"}')
    with open_checkpoints(folder) as saved:
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert steps(folder) == {"2", "3"}  # nothing of another's is removed
        assert equal(resume_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert steps(folder) == {"2"}
        assert "default/d/arrays is missing); that of epoch 2 is taken" in capsys.readouterr().err
        save_checkpoint(saved, checkpoint(3), folder)
    with open_checkpoints(folder) as saved:
        assert equal(resume_checkpoint(saved, checkpoint(0)), checkpoint(3))
    assert not capsys.readouterr().err


def test_none_can_be_read(folder):
    for step in ("2", "3"):
        (folder / "checkpoints" / step / "checksums.json").write_text('{"arrays": "0"}')
    with (
        open_checkpoints(folder) as saved,
        pytest.raises(UserError, match=r"of epoch 3 .* of epoch 2 .* to start over, remove the"),
    ):
        resume_checkpoint(saved, checkpoint(0))
    assert steps(folder) == {"2", "3"}
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_best_params(folder, checkpoint(0).best_params)


@pytest.mark.parametrize("name", ["runs [v2]", "w*", "which?", "c:\\runs", "\udcfe", "x{1,2}"])
def test_a_folder_may_have_any_name(tmp_path, name):
    """Beside one that a pattern of that name would find, too."""
    others = tmp_path / "runs v"
    for folder in (others, tmp_path / name):
        with open_checkpoints(folder) as saved:
            save_checkpoint(saved, checkpoint(1 if folder == others else 2), folder)
    with open_checkpoints(tmp_path / name) as saved:
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert saved.all_steps() == [2]
    best = restore_best_params(tmp_path / name, checkpoint(0).best_params)
    assert equal(best, checkpoint(2).best_params)
    assert steps(tmp_path / name) == {"2"}


def test_a_checkpoint_that_cannot_be_read_again_is_none(tmp_path, monkeypatch):
    """It gets no checksums, and the run ends after its first save, not after its last."""

    def restore(*_, **__):
        raise ValueError("manifest not found")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    with (
        open_checkpoints(tmp_path) as saved,
        pytest.raises(UserError, match=r"epoch 1 was written and cannot be read again \(manifest"),
    ):
        save_checkpoint(saved, checkpoint(1), tmp_path)
    assert not list(tmp_path.rglob("checksums.json"))
