"""``kie completion``: the script that makes a shell complete ``kie``."""

from __future__ import annotations

import click

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")
ADDED = "            COMPREPLY+=($value)"
NO_SPACE = "            [[ $value == *= ]] && compopt -o nospace"
"""For bash: after ``prompt=`` comes its value, and no space."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> int:
    """Print what makes your shell complete kie: commands, options, models, fields.

    \b
    Install it for good:
      bash  kie completion bash > ~/.local/share/bash-completion/completions/kie
      zsh   kie completion zsh > ~/.zfunc/_kie
            with, in ~/.zshrc, before compinit:  fpath+=~/.zfunc
      fish  kie completion fish > ~/.config/fish/completions/kie.fish

    \b
    Try it in this shell only:
      source <(kie completion bash)
      kie completion fish | source

    \b
    Example:
      kie completion bash
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click has no completion for {shell}")
    # The template alone: asking for the whole starts a shell, to learn its version.
    script = made(context.find_root().command, {}, "kie", "_KIE_COMPLETE")
    text = script.source_template % script.source_vars()
    click.echo(text.replace(ADDED, f"{ADDED}\n{NO_SPACE}"))
    return 0
