"""`looper recipes`: the recipes that come with the product."""

import click

from extproc.cli.options import reporting


@click.group("recipes", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the recipes that come with the product, or show one."""
    if ctx.invoked_subcommand is None:
        from extproc.config.includes import about, shipped

        width = max(map(len, shipped()))
        for name in shipped():
            click.echo(f"{name:{width}}  {about(name)}")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Print a recipe: to read, or to copy and change."""
    from extproc.config.includes import text_of

    with reporting():
        click.echo(text_of(name), nl=False)
