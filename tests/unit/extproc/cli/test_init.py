"""`looper init`: what it finds, writes and says."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.cli.init.finding import Listed, Server, found, servers
from extproc.cli.init.writing import written
from extproc.cli.main import main
from extproc.config import parse_config
from looper.simulate.server import MODELS, Simulator

SERVER = Server("http://10.0.0.11:8000/v1")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with Simulator(MODELS).serve() as address:
        yield f"{address.url}/v1"


def init(*arguments: str, folder: Path, **environment: str | None) -> Result:
    unset: dict[str, str | None] = dict.fromkeys(
        ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY")
    )
    return CliRunner().invoke(
        main, ["init", str(folder / "looper.yaml"), *arguments], env=unset | environment
    )


async def test_servers_are_asked_for_their_models(url: str) -> None:
    """One that answers and one that does not; a key is used, and told to nobody."""
    known = servers({"OPENAI_API_KEY": "canary", "OPENAI_BASE_URL": url}, ["http://127.0.0.1:1/v1"])
    listed, failures = await found(known, {"OPENAI_API_KEY": "canary"}, 30)

    (one,) = listed
    assert one == Listed(
        Server(url, "OPENAI_API_KEY", "openai"), ("small", "other", "third", "large")
    )
    assert failures == ["http://127.0.0.1:1/v1: could not be reached"]
    assert "canary" not in str(written(listed, ()))


@pytest.mark.parametrize(
    ("models", "wanted", "taken"),
    [
        (["a"], [], ["a"]),
        (["a", "b"], [], ["a", "b"]),
        (["org/a", "other/a", "c", "d"], [], ["a", "a-2", "c"]),
        (["text-embedding-3", "gpt-image-1", "gpt-5"], [], ["gpt-5"]),
        (["a", "b", "c", "d"], ["d"], ["d"]),
        (["ü ber/größe: x"], [], ["gr-e-x"]),
    ],
)
def test_what_is_written_is_a_good_configuration(
    models: Sequence[str], wanted: Sequence[str], taken: Sequence[str]
) -> None:
    text = written([Listed(SERVER, tuple(models))], wanted)
    assert text is not None
    assert [model.name for model in parse_config(text, "looper.yaml").models] == taken


def test_nothing_is_written_over_and_nothing_of_nothing(tmp_path: Path) -> None:
    assert "no key of a provider" in init(folder=tmp_path).output
    (tmp_path / "looper.yaml").write_text("mine")
    assert "is there already" in init("--url", "http://127.0.0.1:1/v1", folder=tmp_path).output
    assert (tmp_path / "looper.yaml").read_text() == "mine"
    assert (
        "no server has listed"
        in init("--url", "http://127.0.0.1:1/v1", "--force", folder=tmp_path).output
    )
