"""What signals are asked about."""

import json
from typing import Any

from pydantic import TypeAdapter

from extproc.signals import LocalSignal, ModelConfig, Reading, SignalConfig, Subject
from looper.wire.chat import ChatRequest

_config: TypeAdapter[SignalConfig] = TypeAdapter(SignalConfig)


def subject(*messages: str | dict[str, Any], **members: Any) -> Subject:
    """A request with these messages, text being the user's, and these members."""
    said = [
        {"role": "user", "content": each} if isinstance(each, str) else each for each in messages
    ]
    body = {"model": "m", "messages": said or [{"role": "user", "content": ""}], **members}
    return Subject(ChatRequest.parse(json.dumps(body).encode()))


def local(**settings: Any) -> LocalSignal:
    """A local signal, as a recipe would have it."""
    config = _config.validate_python(settings)
    assert not isinstance(config, ModelConfig)
    return config.build()


def read(asked: str | Subject, **settings: Any) -> Reading:
    """The reading of a local signal with these settings."""
    return local(**settings).read(asked if isinstance(asked, Subject) else subject(asked))
