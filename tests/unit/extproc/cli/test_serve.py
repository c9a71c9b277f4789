"""What `looper serve` is told about its interface for operators."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.cli.main import main
from extproc.config.model import EnvoySettings
from tests.fakes.stack import DEMO


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--admin", "0.0.0.0:9903"), "beyond this machine a token is needed"),
        (("--admin", "10.1.2.3:9903", "--admin-token-file", "SHORT"), "at least 16 characters"),
        (("--admin", "127.0.0.1:9903", "--admin-token-file", "/nowhere"), "cannot be read"),
        (("--admin", "nonsense"), "neither unix:/path nor host:port"),
    ],
)
def test_an_interface_that_strangers_could_use_is_not_opened(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    short = tmp_path / "token"
    short.write_text("short")
    told = [str(short) if each == "SHORT" else each for each in arguments]
    found = CliRunner().invoke(main, ["serve", "-c", str(DEMO), *told])
    assert found.exit_code == 1
    assert said in found.output


@pytest.mark.parametrize(
    ("ingress", "url"),
    [
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("10.1.2.3:80", "http://10.1.2.3:80"),
        ("unix:/run/envoy.sock", None),
    ],
)
def test_the_playground_finds_envoy_where_clients_of_this_machine_do(
    ingress: str, url: str | None
) -> None:
    settings = EnvoySettings(ingress=ingress)
    if url is None:
        with pytest.raises(ValueError, match="give a URL"):
            assert settings.url
    else:
        assert settings.url == url
