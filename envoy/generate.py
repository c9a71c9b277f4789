"""Renders examples/demo.yaml into the Envoy files of this folder, or with --check says whether they are up to date."""

from pathlib import Path

import click

from extproc.bootstrap import render, write
from extproc.config import load_config

FOLDER = Path(__file__).resolve().parent
EXAMPLE = FOLDER.parent / "examples" / "demo.yaml"
DIRECTORY = "/etc/envoy"


def stale() -> list[str]:
    """The names of files that are not what the example renders to, or that it does not render to at all."""
    made = render(load_config(EXAMPLE), directory=DIRECTORY)
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")}
    return sorted(name for name in made | found if made.get(name) != found.get(name))


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Write nothing; fail if a file is not up to date.")
def main(check: bool) -> None:
    """Write or check the generated files."""
    if not check:
        write(load_config(EXAMPLE), FOLDER, DIRECTORY)

    if names := stale():
        raise click.ClickException(
            f"not what examples/demo.yaml renders to: {', '.join(names)}; run `make envoy-config`"
        )

    click.echo("envoy/*.yaml is up to date")


if __name__ == "__main__":
    main()
