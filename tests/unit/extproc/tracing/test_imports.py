"""Who wants no traces pays nothing for them: nothing of the extra is imported."""

import subprocess
import sys

SERVING = """
import sys
import extproc.cli.main, extproc.cli.check, extproc.cli.serve
import extproc.serving.serve, extproc.exchange.exchange, extproc.tracing.opening
found = sorted(name for name in sys.modules if name.partition(".")[0] == "opentelemetry")
sys.exit(f"imported: {found}" if found else 0)
"""


def test_without_tracing_nothing_of_the_extra_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVING], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
