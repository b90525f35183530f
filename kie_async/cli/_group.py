"""A command group in sections, whose commands are loaded when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from kie_async.cli._config import nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["Entry", "Sections"]


@frozen
class Entry:
    """Where a command is, and its help in a line, so that help loads none."""

    module: str
    attribute: str
    says: str


class Sections(click.Group):
    """The group: ``sections`` has its commands under their headings."""

    def __init__(
        self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], end: str = "", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.sections = sections
        self.end = end
        self._entries = {name: each for group in sections.values() for name, each in group.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in their order."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        found: click.Command = getattr(import_module(entry.module), entry.attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        name = args[0]
        if name in self._entries or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"no such command: {name!r}{nearest(name, self._entries)}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, with one column of names for all."""
        longest = max(map(len, self._entries))
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(name.ljust(longest), entry.says) for name, entry in commands.items()]
                )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands first: they are what people look for."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the end as it is: its lines are made to fit."""
        formatter.write("\n")
        for line in self.end.splitlines():
            formatter.write(f"{line}\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names without loading what they name."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.says)
            for name, entry in self._entries.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)
