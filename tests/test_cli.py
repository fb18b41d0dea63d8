"""The way of the commands with flags and errors; what each refuses is tested with the command."""

import commands
import pytest

from cosmos_jax import cli


@pytest.mark.core
@pytest.mark.parametrize("error", [ValueError("no, thanks"), FileNotFoundError(2, "gone", "x.mp4")])
def test_errors_of_users_are_one_line_and_status_2(error, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/run_train.py"])
    with pytest.raises(SystemExit) as ended, cli.user_errors():
        raise error
    assert ended.value.code == cli.BAD_INPUT == 2
    said = capsys.readouterr()
    assert said.err == f"run_train.py: error: {error}\n" and not said.out


@pytest.mark.core
def test_errors_of_ours_are_not_hidden():
    with pytest.raises(ZeroDivisionError), cli.user_errors():
        raise ZeroDivisionError


@pytest.mark.core
def test_the_place_of_an_error_is_told_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COSMOS_JAX_TRACEBACK", "1")
    with pytest.raises(SystemExit), cli.user_errors():
        raise ValueError("no, thanks")
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "test_cli.py" in said
    assert said.splitlines()[-1].endswith("error: no, thanks")


@pytest.mark.core
def test_a_status_can_be_chosen(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.fail("the loss is nan", cli.STOPPED)
    assert ended.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_none_can_be_given_for_a_value_of_any_type(tmp_path):
    """As in `--config.data.fps=None --config.data.stride=1`; the data set is not there."""
    changes = dict(data__fps=None, data__stride=1, data__validation_fraction=None)
    arguments = commands.demo(data__root=tmp_path, **changes)
    error = commands.error_of("run_train.py", *arguments, f"--workdir={tmp_path / 'run'}")
    assert "no videos; expected" in error
    arguments = commands.demo(data__root=tmp_path, data__fps=None)
    error = commands.error_of("run_train.py", *arguments, f"--workdir={tmp_path / 'run'}")
    assert "data.fps=None, data.stride=None: set one of them" in error
