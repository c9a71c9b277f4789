"""`looper schema`: the JSON Schema of the configuration, or of records of runs."""

import click


@click.command("schema")
@click.option("--records", is_flag=True, help="Of the lines of `trace.file`.")
def command(records: bool) -> None:
    """Print the JSON Schema of the configuration, or with --records that of records of runs."""
    import json

    if records:
        from extproc.process.schema import RunRecord

        schema = RunRecord.model_json_schema()
    else:
        from extproc.config import Config

        schema = Config.model_json_schema(by_alias=True)
    click.echo(json.dumps(schema, indent=2))
