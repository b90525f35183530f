"""Settings of the command line: where each is from, and what is refused."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from kie_async.cli import _settings
from kie_async.cli._app import SECTIONS, kie, run
from kie_async.cli._config import KIE, SETTINGS, Config, config_path, current
from kie_async.cli._doctor_work import UPLOADS
from kie_async.cli._exits import Refused
from kie_async.instrumentation import TaskCreated
from kie_async.session._account import UPLOAD_URL
from kie_async.session._session import BASE_URL
from tests.conftest import CANARY_KEY


@pytest.fixture(name="file")
def _file(tmp_path, monkeypatch):
    """Return the settings file; it is ours alone."""
    path = tmp_path / "config.toml"
    path.touch(0o600)
    monkeypatch.setenv("KIE_CONFIG", str(path))
    return path


def shown(capsys, *arguments: str) -> dict[str, dict]:
    """Run `kie config --json` and return its objects by name."""
    assert run([*arguments, "config", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return {each["name"]: each for each in map(json.loads, told.out.splitlines())}


def test_a_setting_is_from_the_first_that_has_it(file, monkeypatch, capsys):
    """A flag, then the environment, then the file, then the default."""
    file.write_text('timeout = 10\nmax_concurrency = 3\nout = "there"\nrequest_timeout = 7.5\n')
    monkeypatch.setenv("KIE_TIMEOUT", "20")
    monkeypatch.setenv("KIE_MAX_CONCURRENCY", "4")
    monkeypatch.setenv("KIE_LOG_LEVEL", "")

    found = shown(capsys, "-c", "timeout=30", "--set", "poll-rate=5/2")

    told = {name: (each["value"], each["source"]) for name, each in found.items()}
    assert told["timeout"] == (30.0, "flag")
    assert told["poll_rate"] == ("5/2", "flag")
    assert told["max_concurrency"] == (4, "environment")
    assert found["max_concurrency"]["where"] == "KIE_MAX_CONCURRENCY"
    assert told["request_timeout"] == (7.5, "file")
    assert found["out"]["where"] == str(file)
    assert told["log_level"] == ("off", "default")
    assert set(found) == set(SETTINGS)


def test_the_key_is_never_shown(file, monkeypatch, capsys):
    """Only that it is set, and where from; in the table and in JSON."""
    file.write_text(f'api_key = "{CANARY_KEY}"\n')
    assert run(["config"]) == 0
    from_file = capsys.readouterr()
    monkeypatch.setenv("KIE_API_KEY", CANARY_KEY + "2")
    found = shown(capsys)

    assert CANARY_KEY not in from_file.out + from_file.err + json.dumps(found)
    assert from_file.out.splitlines()[1].split()[:3] == ["api_key", "set", "file"]
    assert (found["api_key"]["source"], found["api_key"]["value"]) == ("environment", None)
    assert found["api_key"]["is_set"] is True
    assert CANARY_KEY not in repr(Config.load({}, os.environ))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(file, mode, capsys):
    """With the reason and the command that mends it; nothing else works until then."""
    file.write_text(f'api_key = "{CANARY_KEY}"\n')
    file.chmod(mode)

    code = run(["credits"])

    told = capsys.readouterr().err
    assert code == 3
    assert f"mode {mode:04o}" in told
    assert f"chmod 600 {file}" in told
    assert CANARY_KEY not in told


def test_a_key_that_only_the_owner_can_read_is_taken(file):
    """Also one that nobody can write."""
    file.write_text(f'api_key = "{CANARY_KEY}"\n')
    file.chmod(0o400)

    assert current().get("api_key").value.reveal() == CANARY_KEY
    _settings.check_key()


def test_a_file_without_a_key_may_be_read_by_all(file):
    """There is nothing to hide."""
    file.write_text("timeout = 5\n")
    file.chmod(0o644)

    assert current().get("timeout").value == 5.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("timout = 5", "'timout', which is no setting - did you mean timeout?"),
        ("frobnicate = 5", "'frobnicate', which is no setting"),
        ("[kie]\ntimeout = 5", "'kie', which is no setting"),
        ('timeout = "soon"', "must be a number of seconds above zero, not 'soon'"),
        ("timeout = true", "must be a number of seconds above zero"),
        ("timeout = nan", "must be a number of seconds above zero"),
        ("max_concurrency = 0", "must be a whole number from 1 to 10000, not 0"),
        ("max_concurrency = 2.5", "must be a whole number from 1 to 10000"),
        ('poll_rate = "8"', 'must be a rate such as "20/10"'),
        ("poll_rate = 8", 'must be a rate such as "20/10"'),
        ('create_retry = "always"', "must be one of never, rejected, reported"),
        ('log_level = "loud"', "must be one of off, error"),
        ('base_url = "http://example.org"', "must be https"),
        ('out = ""', "must be a text"),
        ('out = "~nobody-of-that-name/x"', "names a home directory that there is not"),
        ("api_key = 5", "must be a text"),
        ('api_key = "white space"', "holds white space"),
        (f'api_key = "{CANARY_KEY}', "it is no TOML at "),
        (f"timeout = 0x{'f' * 5000}", "must be a number of seconds above zero"),
        (f"max_concurrency = 0x{'f' * 5000}", "must be a whole number from 1 to 10000"),
        (f"max_concurrency = '{'9' * 5000}'", "must be a whole number from 1 to 10000"),
        (f"poll_rate = 0x{'f' * 5000}", 'must be a rate such as "20/10"'),
        (f"log_level = 0x{'f' * 5000}", "must be one of off, error"),
        ("\x00", "it is no TOML"),
        ("#" * 70_000, "too long"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(file, text, told, capsys):
    """By the file's name, the setting's, and what it takes."""
    file.write_text(text)

    assert run(["config"]) in (2, 3)

    said = capsys.readouterr()
    assert told in said.err
    assert str(file) in said.err
    assert CANARY_KEY not in said.err
    assert said.out == ""


def test_a_file_of_other_bytes_is_no_file_of_settings(file, capsys):
    """It is told, and not guessed."""
    file.write_bytes(b"\xff\xfe")

    assert run(["config"]) == 2
    assert "no UTF-8" in capsys.readouterr().err


def test_an_address_with_a_password_is_refused_and_not_shown(monkeypatch, capsys):
    """Whoever mistypes one learns of it, and the log does not."""
    monkeypatch.setenv("KIE_BASE_URL", f"https://user:{CANARY_KEY}@example.org")

    assert run(["config"]) == 2

    said = capsys.readouterr().err
    assert "KIE_BASE_URL must not hold a user name or password" in said
    assert CANARY_KEY not in said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("timout=5", "did you mean timeout?"),
        ("timeout", "NAME=VALUE, such as timeout=900"),
        ("timeout=", "NAME=VALUE"),
        ("timeout=never", "-c timeout must be a number"),
        (f"api_key={CANARY_KEY}", "every user of a machine"),
        (f"api-key={CANARY_KEY}", "every user of a machine"),
    ],
)
def test_a_wrong_flag_is_wrong_usage(given, told, capsys):
    """And a key given there is not told on."""
    assert run(["-c", given, "config"]) == 2

    said = capsys.readouterr()
    assert told in said.err
    assert CANARY_KEY not in said.err + said.out


def test_where_the_file_is(monkeypatch, tmp_path, capsys):
    """XDG_CONFIG_HOME, else ~/.config; KIE_CONFIG goes before both, and must be there."""
    home = {"HOME": str(tmp_path)}
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = tmp_path / ".config" / "kie" / "config.toml"

    assert config_path(home) == plain
    assert config_path({**home, "XDG_CONFIG_HOME": "relative"}) == plain
    assert config_path({"XDG_CONFIG_HOME": "/x"}).as_posix() == "/x/kie/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x", "KIE_CONFIG": "~/k.toml"}) == tmp_path / "k.toml"

    monkeypatch.setenv("KIE_CONFIG", str(tmp_path / "gone.toml"))
    assert run(["config", "--path"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'gone.toml'}\n"
    assert run(["config"]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_without_a_home_directory_there_is_no_file(monkeypatch):
    """As in a container whose user is only a number; a name given for it is told."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)

    assert config_path({}) == Path(os.devnull)
    with pytest.raises(Refused, match="home directory"):
        config_path({"KIE_CONFIG": "~nobody-of-that-name/k.toml"})


def test_commands_take_their_defaults_from_the_settings(file, monkeypatch, tmp_path):
    """And their own options go before."""
    file.write_text('timeout = 5\nout = "saved"\ncreate_rate = "7/3"\n')
    monkeypatch.chdir(tmp_path)
    taken = []

    def probe(name: str, *arguments: str) -> dict:
        command = kie.get_command(None, name)
        monkeypatch.setattr(command, "callback", lambda **given: taken.append(given))
        assert CliRunner().invoke(kie, [name, *arguments]).exit_code == 0
        return taken.pop()

    assert probe("upscale", "an-id")["timeout"] == 5.0
    assert str(probe("wait", "an-id")["out"]) == "saved"
    assert probe("wait", "an-id", "--timeout", "6", "--out", "o")["timeout"] == 6.0
    assert str(probe("bulk", "--journal", "j")["rate"]) == "7/3"


def test_a_session_is_made_as_the_settings_say(file, monkeypatch):
    """Each reaches its place."""
    file.write_text(
        'base_url = "http://127.0.0.1:9/prefix/"\nupload_url = "https://up.example"\n'
        'max_concurrency = 3\npoll_rate = "5/2"\ncreate_rate = "7/3"\ncreate_retry = "never"\n'
        f'request_timeout = 4\napi_key = "{CANARY_KEY}"\n'
    )

    made = _settings.connect(lambda _event: None)

    settings = made._engine._settings
    assert made._transport.base_url == "http://127.0.0.1:9/prefix"
    assert (settings.limiter.limit, settings.limiter.window) == (7, 3.0)
    assert (settings.poll_limiter.limit, settings.poll_limiter.window) == (5, 2.0)
    assert (settings.max_concurrency, settings.request_timeout) == (3, 4.0)
    assert settings.create_retry.name == "NEVER"
    assert _settings.on_loopback()


def test_the_log_is_on_stderr_and_commands_nothing(file, capsys):
    """What a server says cannot colour the terminal; without a level nothing is logged."""
    import logging

    file.write_text('log_level = "info"\napi_key = "k"\n')
    logger = logging.getLogger("kie_async")
    before = (logger.level, logger.handlers[:])
    try:
        made = _settings.connect(lambda _event: None)
        made._engine._settings.hooks.emit(TaskCreated(task_id="t1", model="\x1b[31mm"))
        logger.warning("a \x1b[31mword")
    finally:
        logger.setLevel(before[0])
        logger.handlers[:] = before[1]

    told = capsys.readouterr().err
    assert "task_created task_id=t1" in told
    assert "a \\x1b[31mword" in told
    assert "\x1b" not in told


def test_without_settings_a_command_is_refused_only_for_its_key(monkeypatch):
    """The defaults are enough."""
    with pytest.raises(Refused, match="KIE_API_KEY is not set"):
        _settings.connect(lambda _event: None)


# -- the group -------------------------------------------------------------------------


def test_the_help_tells_of_each_command_what_the_command_tells():
    """Help loads none of them, so the words stand in two places: they must agree."""
    for entries in SECTIONS.values():
        for name, entry in entries.items():
            command = kie.get_command(None, name)
            assert command is not None
            assert command.name == name
            assert command.get_short_help_str(200).startswith(entry.says.rstrip(".")), name


def test_the_help_fits_a_screen():
    """Fifty lines of eighty columns, with every command in it."""
    told = CliRunner(env={"COLUMNS": "80"}).invoke(kie, ["--help"]).output.splitlines()

    assert len(told) <= 50
    assert max(map(len, told)) <= 80
    names = {line.split()[0] for line in told if line.startswith("  ")}
    assert {name for entries in SECTIONS.values() for name in entries} <= names


def test_every_command_has_an_example():
    """What to type, beginning with kie."""
    for entries in SECTIONS.values():
        for name in entries:
            command = kie.get_command(None, name)
            subcommands = list(getattr(command, "commands", {}).values()) or [command]
            for each in subcommands:
                assert "\n  kie " in inspect.cleandoc(each.callback.__doc__ or ""), name


@pytest.mark.parametrize("name", [name for entries in SECTIONS.values() for name in entries])
def test_the_help_of_each_command_fits_eighty_columns(name):
    """Its examples too, which are not wrapped; and it needs no key and no file."""
    told = CliRunner(env={"COLUMNS": "80"}).invoke(kie, [name, "--help"])

    assert told.exit_code == 0
    assert max(map(len, told.output.splitlines())) <= 80


def test_help_is_a_word_too(capsys):
    """As people type it elsewhere."""
    assert run(["help"]) == 0
    assert "Main:" in capsys.readouterr().out
    assert run(["help", "callbacks", "serve"]) == 0
    assert "Usage: kie callbacks serve" in capsys.readouterr().out


def test_the_addresses_are_those_of_the_session():
    """They stand in two places, so that help and doctor load no session."""
    assert (KIE, UPLOADS) == (BASE_URL, UPLOAD_URL)


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    """As people type."""
    assert run(["upscael"]) == 2
    assert "did you mean upscale?" in capsys.readouterr().err


def test_the_help_names_every_setting():
    """With what it is, in the order of the table."""
    told = CliRunner().invoke(kie, ["config", "--help"]).output
    block = told.partition("Settings:\n")[2].partition("\n\n")[0]

    assert [line.split()[0] for line in block.splitlines() if line[:5].strip()] == list(SETTINGS)
