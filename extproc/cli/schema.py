"""`looper schema`: the JSON Schema of the configuration."""

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the configuration."""
    import json

    from extproc.config import Config

    click.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))
