"""The only part that speaks HTTP: to the API, and to the hosts of results.

aiohttp is imported when a transport is opened, not before.
"""

from __future__ import annotations

from kie_async.transport._address import check_address
from kie_async.transport._api import Transport
from kie_async.transport._place import Place
from kie_async.transport._results import Fetched, ResultTransport

__all__ = ["Fetched", "Place", "ResultTransport", "Transport", "check_address"]
