"""`looper`: finds a command by its name, and imports no other."""

from importlib import import_module

import click

from extproc import __version__

COMMANDS = {
    "serve": "Run the processor that Envoy's ext_proc filter talks to.",
    "check": "Say everything that is wrong with a configuration.",
    "explain": "Show how a request is decided.",
    "cost": "Show what each decision may cost at the most, in calls, tokens and USD.",
    "eval": "Put questions whose answers are known to decisions and teams.",
    "calibrate": "Fit a team's weights and thresholds to recorded outcomes.",
    "probe": "Ask configurations or recipes their probes.",
    "recipes": "List the recipes that come with the product, or show one.",
    "init": "Write a configuration for the models that this environment has keys for.",
    "simulate": "Serve simulated models.",
    "schema": "Print the JSON Schema of the configuration.",
    "envoy-config": "Write Envoy's bootstrap, clusters and routes for a configuration.",
    "up": "Start Envoy, processor and simulated models on this machine, and show them at work.",
    "runs": "List the last runs of a process, or show one on a time axis.",
    "top": "Show how decisions and models of a process fare.",
    "drain": "Have Envoy ask its clients to connect elsewhere before it ends.",
    "doctor": "See whether models and Envoy are what a configuration takes them for.",
}
"""What there is, in the order in which it is told, and what each does in one line."""


class Commands(click.Group):
    """The commands. The list of them is told without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"extproc.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="looper")
def main() -> None:
    """A team of models behind one OpenAI-compatible model name, inside Envoy."""
