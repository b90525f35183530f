"""What the shell may complete; nothing here asks anybody or loads much."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

__all__ = ["complete_field", "complete_model"]


def complete_model(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the models of the list."""
    from kie_async.cli._catalogue import MODELS

    return [
        CompletionItem(name, help=model.makes)
        for name, model in MODELS.items()
        if name.startswith(incomplete)
    ]


def complete_field(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the inputs of the model that was typed before."""
    from kie_async.cli._catalogue import find

    # While `-i` still lacks its value, click has not given the words before it their names.
    typed = ctx.params.get("model") or next(iter(ctx.args), "")
    model = find(str(typed))
    if model is None:
        return []
    name, equals, begun = incomplete.partition("=")
    if not equals:
        return [
            CompletionItem(f"{each.name}=", help=each.takes)
            for each in model.inputs
            if each.name.startswith(name)
        ]
    wanted = model.input(name)
    takes = "" if wanted is None else wanted.takes
    return [CompletionItem(f"{name}={word}") for word in _words(takes, begun)]


def _words(takes: str, begun: str) -> Iterable[str]:
    """Return the values of a field that takes a few words."""
    words = takes.partition("(")[0].split()
    listed = all(word.replace(":", "").isalnum() and len(word) <= 6 for word in words)
    return [word for word in words if word.startswith(begun)] if listed else []
