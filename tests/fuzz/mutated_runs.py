"""Mutated inputs for one reader, without a guide."""

from __future__ import annotations

import random
import time

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import Reader
from tests.fuzz.report import Report

__all__ = ["feed"]

WARM = 2000


def feed(name: str, reader: Reader, runs: int, seed: int = 0) -> Report:
    """Feed the true inputs, the hostile ones, and *runs* that are mutated."""
    report = Report(patience=5.0)  # a machine that does much else is slow, and no hang
    inputs = [*reader.seeds, *reader.hostile]
    for number in range(len(inputs) + runs):
        if number < len(inputs):
            data = inputs[number]
        else:
            data = mutated(random.Random(f"{name} {seed} {number}"), reader.seeds)
        began = time.monotonic()
        try:
            reader.target(data)
        except Exception as error:  # noqa: BLE001 - reason: this is what is looked for
            report.escape(error, time.monotonic() - began)
        else:
            report.count("kept its word", time.monotonic() - began)
        if number >= WARM and number % WARM == 0:
            report.weigh()
    report.weigh()
    return report
