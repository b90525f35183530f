"""What the Grok Imagine models take."""

from __future__ import annotations

import pytest

from kie_async.errors import UsageError
from kie_async.grok_imagine import RESOLUTIONS, upscale_input


def test_an_upscale_takes_the_id_alone():
    """No default is sent that the caller did not choose: the price follows from it."""
    assert upscale_input("abcd") == {"task_id": "abcd"}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_documented_resolution_is_sent(resolution):
    """As it was written."""
    assert upscale_input("abcd", resolution) == {"task_id": "abcd", "resolution": resolution}


@pytest.mark.parametrize("resolution", ["", "4k", 720, "720P"])
def test_another_resolution_is_refused_before_it_costs(resolution):
    """And the message says how to send it all the same."""
    with pytest.raises(UsageError, match="run"):
        upscale_input("abcd", resolution)
