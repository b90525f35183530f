"""The pytest fixture `kie_emulator`: in this run, and in other people's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from kie_async.emulator import Rule

ROOT = Path(__file__).parents[1]


def post(emulator, path: str, body: dict) -> dict:
    """Send a request as any program would."""
    headers = {"Authorization": f"Bearer {emulator.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(emulator.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_the_fixture_serves_plain_code(kie_emulator):
    """No loop in sight: sources, faults by rule or by name, books."""
    source = kie_emulator.add_source_task("source-1")
    body = {"model": "grok-imagine/upscale", "input": {"task_id": source}}
    kie_emulator.inject(Rule(route="createTask", action="too-many", nth=0))
    kie_emulator.inject(route="createTask", action="maintenance", nth=1)
    rules = kie_emulator.rules
    codes = [post(kie_emulator, "/api/v1/jobs/createTask", body)["code"] for _ in range(3)]
    kie_emulator.clear_rules()

    assert source == "source-1"
    assert codes == [429, 455, 200]
    assert [rule.action for rule in rules] == ["too-many", "maintenance"]
    assert kie_emulator.rules == ()
    assert kie_emulator.books.paid == {source: 1}
    assert kie_emulator.books.paid(source) == 1
    assert kie_emulator.hmac_key == "emulator-hmac-key"


@pytest.mark.asyncio
async def test_the_fixture_serves_async_tests_too(kie_emulator):
    """It has a loop of its own."""
    assert kie_emulator.add_source_task()


OTHERS_TEST = """
import urllib.request

def test_theirs(kie_emulator):
    with urllib.request.urlopen(kie_emulator.url + "/__emulator__/books", timeout=20) as answer:
        assert answer.status == 200
"""


def test_it_serves_a_suite_without_asyncio(tmp_path):
    """Somebody else's, with the plugin and no other."""
    (tmp_path / "test_theirs.py").write_text(OTHERS_TEST)
    shown = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "kie_async.emulator.pytest_plugin", "-W", "error", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )

    assert "1 passed" in shown.stdout, shown.stdout + shown.stderr


def test_the_plugin_costs_nothing_until_it_is_used():
    """Of the emulator nothing but the plugin is loaded, and no HTTP library."""
    code = (
        "import sys, kie_async.emulator.pytest_plugin\n"
        "print([n for n in sys.modules if n.startswith('kie_async.emulator.')])\n"
        "print('aiohttp' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.split("\n")[:2] == ["['kie_async.emulator.pytest_plugin']", "False"]
