"""Several devices: `on_several_devices` in a process that has eight; options that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import train
from tests.devices import check_on_devices


@pytest.mark.slow
def test_on_several_devices():
    check_on_devices(8, Path(__file__).with_name("on_several_devices.py"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh", "rows=2"], "unknown axis 'rows'; expected data and model"),
        (["--mesh", "data=2,data=2"], "data is given twice"),
        (["--mesh", "data=0"], "a number from 1 on, got '0'"),
        (["--mesh", "data=64"], "takes 64 devices, and there are"),
        (["--mesh", "data=1", "--together", "True"], "--together: seeds are trained one after"),
        (["--mesh", "data=1", "--rng", "rbg"], "--rng: rbg draws other numbers"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path, capsys):
    assert train.main([*options, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
