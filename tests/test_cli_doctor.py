"""`kie doctor`: each thing that can be wrong is told by its name, with what to do."""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from importlib import metadata

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from kie_async.callbacks._verify import MAX_AGE
from kie_async.cli import _doctor_here as here
from kie_async.cli import _doctor_host as host
from kie_async.cli._app import run
from kie_async.cli._config import Config
from kie_async.cli._doctor_says import Finding
from tests.cli_tools import kie_fixture  # noqa: F401 - a fixture
from tests.conftest import CANARY_KEY

# -- the whole ---------------------------------------------------------------------------


def test_all_is_well_with_an_emulator(kie):
    """Every line but the warning that it is one; nothing is created."""
    ended = kie.process("doctor")

    lines = ended.out.splitlines()
    assert ended.code == 0, ended
    assert "accepted (KIE_API_KEY); 1,000 credits" in ended.out
    assert "20 creates in any 10 s" in ended.out
    assert [line[6:14] for line in lines if line.startswith("warn")] == ["base URL"]
    assert not [line for line in lines if line.startswith("fail")]
    assert lines[-1].startswith("Nothing failed: ")
    assert ended.err == ""
    assert kie.api.books.creates == []


def test_in_json_each_check_is_an_object(kie):
    """With what to do, and a summary with the exit code."""
    ended = kie("doctor", "--json")

    checks = {each["name"]: each for each in ended.events("check")}
    assert {"versions", "settings", "limits", "base URL", "clock", "key", "journals"} <= set(checks)
    assert checks["clock"]["state"] == "ok"
    assert checks["base URL"]["next"].startswith("for the real one: unset KIE_BASE_URL")
    assert ended.objects[-1]["exit_code"] == ended.code == 0


def test_a_refused_key_is_code_3_and_not_shown(kie):
    """It says where the key is from."""
    ended = kie("doctor", KIE_API_KEY=CANARY_KEY)

    assert ended.code == 3
    assert "refused (KIE_API_KEY)" in ended.out
    assert "Next: put a valid key into KIE_API_KEY" in ended.out


def test_no_key_is_code_3(kie):
    """The rest is looked at all the same."""
    ended = kie("doctor", KIE_API_KEY="")

    assert ended.code == 3
    assert "there is none" in ended.out
    assert "right, within" in ended.out


def test_nobody_there_is_code_1(kie):
    """The step that failed has its name; those after it are left out."""
    ended = kie("doctor", KIE_BASE_URL="http://127.0.0.1:9")

    states = {
        line[6:23].strip(): line[:4].strip() for line in ended.out.splitlines() if line[:4].strip()
    }
    assert ended.code == 1
    assert states["API connection"] == "fail"
    assert "clock" not in states
    assert states["key"] == "skip"
    assert "port 9" in ended.out


def test_a_broken_file_is_told_and_the_rest_is_looked_at(tmp_path, monkeypatch, capsys):
    """Doctor is what people type when something is broken."""
    file = tmp_path / "c.toml"
    file.write_text("timout = 3")
    monkeypatch.setenv("KIE_CONFIG", str(file))

    assert run(["doctor", "--json"]) == 1

    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["name"] for each in told if each.get("state") == "fail"] == ["settings"]
    assert "did you mean timeout?" in told[2]["found"]
    assert told[-2]["name"] == "journals"


def test_a_key_that_others_can_read_is_code_3(tmp_path, monkeypatch, capsys):
    """With the command that mends it."""
    file = tmp_path / "c.toml"
    file.write_text(f'api_key = "{CANARY_KEY}"')
    file.chmod(0o644)
    monkeypatch.setenv("KIE_CONFIG", str(file))

    assert run(["doctor"]) == 3

    told = capsys.readouterr().out
    assert f"Next: chmod 600 {file}" in told
    assert CANARY_KEY not in told


def test_an_interrupt_ends_it(kie):
    """While the host says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        process = kie.start("doctor", KIE_BASE_URL=f"http://127.0.0.1:{mute.getsockname()[1]}")
        while "API TLS" not in process.stdout.readline():
            pass
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode == 143


# -- the host ----------------------------------------------------------------------------


async def found(url: str, what: str = "API") -> dict[str, Finding]:
    """Return the findings by name."""
    return {finding.name: finding async for finding in host.check_host(url, what)}


class Server:
    """Answers every request with one text; TLS if there is a certificate."""

    def __init__(
        self, said: str, certificate: trustme.LeafCert | None = None, *, patient: bool = True
    ) -> None:
        self.said, self.heard = said, b""
        self.end = b"\r\n\r\n" if patient else b"\x03"  # which is in every TLS greeting
        self.tls = None
        if certificate is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(self.tls)

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard = await reader.readuntil(self.end)
            writer.write(self.said.encode())
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


def answer(date: str) -> str:
    return f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"


def date(offset: float = 0.0) -> str:
    return email.utils.formatdate(time.time() + offset, usegmt=True)


@pytest.fixture(scope="module", name="authority")
def _authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="trusted")
def _trusted(authority, tmp_path, monkeypatch) -> None:
    """Let this process trust the authority, as an administrator would."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.mark.asyncio
async def test_tls_is_looked_at_for_itself(authority, trusted):
    """Its version, and how long the certificate is good; no key is in the question."""
    server = Server(answer(date()), authority.issue_cert("127.0.0.1"))
    async with server as url:
        told = await found(url)

    assert [each.state for each in told.values()] == ["skip", "ok", "ok", "ok"]
    assert "TLSv1.3" in told["API TLS"].found
    assert "days" in told["API TLS"].found
    assert server.heard.startswith(b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert b"uthorization" not in server.heard


@pytest.mark.asyncio
async def test_a_certificate_that_ends_soon_is_a_warning(authority, trusted):
    """It will stop everything."""
    certificate = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=3))
    async with Server(answer(date()), certificate) as url:
        told = await found(url)

    assert told["API TLS"].state == "warn"


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", ["unknown", "expired", "other-name"])
async def test_a_certificate_that_is_refused_stops_it(authority, wrong, tmp_path, monkeypatch):
    """With the reason."""
    options = {"not_after": datetime.now(UTC) - timedelta(days=1)} if wrong == "expired" else {}
    name = "other.example" if wrong == "other-name" else "127.0.0.1"
    if wrong != "unknown":
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = Server(answer(date()), authority.issue_cert(name, **options))
    async with server as url:
        told = await found(url)

    assert told["API TLS"].state == "fail"
    assert "the certificate was refused: " in told["API TLS"].found
    assert "SSL_CERT_FILE" in (told["API TLS"].next or "")
    assert "clock" not in told
    assert server.heard == b""


@pytest.mark.asyncio
async def test_who_speaks_no_tls_is_told(monkeypatch):
    """A proxy in between, or a wrong port."""
    async with Server("HTTP/1.1 400 Bad Request\r\n\r\n", patient=False) as url:
        told = await found(url.replace("http:", "https:"))

    assert told["API TLS"].state == "fail"


@pytest.mark.asyncio
async def test_a_name_that_nobody_knows_is_told(monkeypatch):
    """And that a proxy is not used, if one is set."""

    async def unknown(_host, _port):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(host, "_resolved", unknown)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{CANARY_KEY}@proxy")
    told = await found("https://api.example")

    assert list(told) == ["API name"]
    assert "Name or service not known" in told["API name"].found
    assert "HTTPS_PROXY is set, and kie_async uses no proxy" in (told["API name"].next or "")
    assert CANARY_KEY not in str(told)


@pytest.mark.asyncio
async def test_the_next_address_is_tried(monkeypatch):
    """As a client would."""

    async def two(_host, _port):
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(host, "_resolved", two)
    async with Server(answer(date())) as url:
        told = await found(url.replace("127.0.0.1", "localhost"))

    assert told["API name"].found.startswith("localhost: 127.0.0.2 and 1 more")
    assert told["API connection"].found.startswith("127.0.0.1 port")
    assert told["clock"].state == "ok"


@pytest.mark.asyncio
@pytest.mark.parametrize("said", ["", "garbage", "HTTP/1.1 200 OK\r\n" + "x: y\r\n" * 20_000])
async def test_who_says_no_http_is_told(said):
    """Nothing, garbage, and too much."""
    async with Server(said) as url:
        told = await found(url)

    assert told["clock"].state == "fail"
    assert "no answer to a plain request" in told["clock"].found


@pytest.mark.asyncio
async def test_the_upload_host_is_only_asked_whether_it_speaks():
    """The clock is compared once."""
    async with Server("HTTP/1.1 200 \x1b[31mOK\r\nServer: x\r\n\r\n") as url:
        told = await found(url, "uploads")

    assert told["uploads answer"].state == "ok"
    assert "\x1b" not in told["uploads answer"].found


# -- the clock ---------------------------------------------------------------------------


def judged(offset: float) -> Finding:
    """Compare with a server whose clock is ahead by so many seconds."""
    return host.clock_finding(
        email.utils.formatdate(1_000_000.0 + offset, usegmt=True), 1_000_000.2, 1_000_000.4
    )


@pytest.mark.parametrize(
    ("offset", "state", "word"),
    [
        (0, "ok", "right"),
        (20, "ok", "20 s behind"),
        (-20, "ok", "19 s ahead of"),
        (100, "warn", "behind"),
        (-100, "warn", "ahead of"),
        (400, "fail", "behind"),
        (-90_000, "fail", "ahead of"),
    ],
)
def test_the_clock_is_judged_by_what_callbacks_tolerate(offset, state, word):
    """300 s is the window of the receiver."""
    finding = judged(offset)

    assert finding.state == state
    assert word in finding.found
    assert host.TOLERANCE == MAX_AGE


@given(st.floats(0.0, 5.0), st.floats(0.0, 1e9))
def test_a_right_clock_is_never_blamed(delay, now):
    """For all round trips: the server's second may begin before, and end after."""
    for moment in (now, now + delay / 2, now + delay):
        told = email.utils.formatdate(float(int(moment)), usegmt=True)
        assert host.clock_finding(told, now, now + delay).found.startswith("right")


@given(st.text())
def test_any_date_is_judged_or_left(text):
    """A server may say what it likes."""
    assert host.clock_finding(text, 0.0, 1.0).state in {"ok", "warn", "fail", "skip"}


# -- this machine ------------------------------------------------------------------------

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /home/with\\040space rw - nfs4 host:/x rw
24 22 0:21 / /run rw - tmpfs tmpfs rw
25 24 0:22 / /run/deep rw - fuse.sshfs x rw
broken line
26 22 0:22 / /over rw - ext4 x rw
27 22 0:22 / /over rw - overlay x rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/home/other", "ext4"),
        ("/home/with space/runs", "nfs4"),
        ("/run", "tmpfs"),
        ("/running", "ext4"),
        ("/run/deep/er", "fuse.sshfs"),
        ("/over/x", "overlay"),
    ],
)
def test_the_file_system_of_a_directory_is_found(directory, kind, tmp_path):
    """The deepest mount, and the last one there."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)

    assert here.file_system(tmp_path.__class__(directory), table) == kind
    assert here.file_system(tmp_path, tmp_path / "gone") == ""


@pytest.mark.parametrize(
    ("kind", "state"),
    [("ext4", "ok"), ("", "ok"), ("nfs4", "warn"), ("fuse.sshfs", "warn"), ("tmpfs", "warn")],
)
def test_a_journal_wants_a_local_disk(kind, state, tmp_path, monkeypatch):
    """A network's locks cannot be relied upon, and memory is gone at a restart."""
    monkeypatch.setattr(here, "file_system", lambda _directory: kind)

    (finding,) = here.journals(tmp_path)

    assert finding.state == state
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_or_full_is_told(tmp_path, monkeypatch):
    """Where a journal could not be kept."""
    (gone,) = here.journals(tmp_path / "gone")
    monkeypatch.setattr(here, "LITTLE", 2**80)
    (full,) = here.journals(tmp_path)

    assert (gone.state, full.state) == ("fail", "warn")


def test_a_variable_that_nothing_reads_is_told(tmp_path):
    """With the nearest name."""
    environment = {"KIE_TIMEOT": "5", "KIE_HMAC_KEY": CANARY_KEY, "OTHER": "x"}
    told = list(here.settings(Config({}, environment, tmp_path)))

    assert [each.state for each in told] == ["ok", "warn"]
    assert "did you mean KIE_TIMEOUT?" in told[1].found
    assert CANARY_KEY not in str(told)


def test_another_host_that_gets_the_key_is_a_warning():
    """It may be meant."""
    assert here.address("https://api.kie.ai", here=False).state == "ok"
    assert "your key is sent there" in here.address("https://kie.example", here=False).found


def test_extras_are_those_whose_packages_are_all_there(monkeypatch):
    """As the package itself declares them."""

    class About:
        def get_all(self, name):
            return {
                "Provides-Extra": ["cli", "queue"],
                "Requires-Dist": [
                    "aiohttp>=3",
                    "click>=8; extra == 'cli'",
                    'rich>=13 ; extra == "cli"',
                    "no-such-package>=1; extra == 'queue'",
                ],
            }[name]

    monkeypatch.setattr(metadata, "metadata", lambda _name: About())

    assert here.extras().found == "cli; not installed: queue"


def test_from_its_source_there_are_no_extras(monkeypatch):
    """It is not installed."""

    def none(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "metadata", none)

    assert here.extras().state == "skip"
