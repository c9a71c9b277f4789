"""Runs h2spec, in its strict mode, against the transport of our own. Needs Go, by which h2spec is built once."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

from extproc.serving.http2.bounds import DEFAULT, Bounds
from extproc.serving.http2.server import Server
from tests.fakes.envoy import free_port

TOOLS = Path(__file__).parents[1] / ".tools"
MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

SMALL_FRAMES = Bounds(frame=1 << 14)
INAPPLICABLE = {
    # h2spec takes 16 KiB for the largest frame there is, and we announce more.
    "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE": (DEFAULT,),
}


async def build() -> Path:
    """Where h2spec is."""
    binary = TOOLS / "h2spec"
    if not binary.exists():
        if shutil.which("go") is None:
            raise SystemExit("h2spec is built by Go, which is not here")
        environment = {**os.environ, "GOBIN": str(TOOLS)}  # noqa: TID251  # Go wants to be told
        process = await asyncio.create_subprocess_exec("go", "install", MODULE, env=environment)
        if await process.wait():
            raise SystemExit("h2spec could not be built")
    return binary


async def failed(binary: Path, bounds: Bounds) -> list[str]:
    """What h2spec says of a server with these bounds, and the tests that fail though they apply."""
    port = free_port()
    async with Server({}, bounds) as server:
        await server.listen(f"127.0.0.1:{port}")
        process = await asyncio.create_subprocess_exec(
            *(str(binary), "--strict", "--host", "127.0.0.1", "--port", str(port)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    report = out.decode()
    print(report.partition("Failures:")[2] or report.splitlines()[-1])  # noqa: T201
    assert re.search(r"^\d+ tests, \d+ passed, 0 skipped, \d+ failed$", report, re.M), report
    found = set(re.findall(r"× \d+: (.*)", report))
    return [each for each in found if bounds not in INAPPLICABLE.get(each, ())]


async def main() -> None:
    binary = await build()
    bad = [each for bounds in (DEFAULT, SMALL_FRAMES) for each in await failed(binary, bounds)]
    sys.exit(f"failed: {bad}" if bad else 0)


if __name__ == "__main__":
    asyncio.run(main())
