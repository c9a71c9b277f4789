"""What one client may have this process hold, and do: every number that an attack, or a mistake, would run into."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of each connection; `connections` is that of one address. Sizes are bytes, times are seconds.

    What a connection holds is at most `unread` and the frame and the header block that are under way, of what came;
    and of what goes out, one message of each stream, as a handler waits until its message is on its way.
    """

    connections: int = 1024
    streams: int = 4096
    """Open at once, with those whose handlers have not noticed yet that they were reset. Others are refused."""
    frame: int = 1 << 20
    header_block: int = 128 << 10
    """Compressed, over all frames. More ends the connection, as does twice `header_list`."""
    header_list: int = 64 << 10
    """Uncompressed, as RFC 9113 counts. More is refused with RESOURCE_EXHAUSTED, and ends no other stream."""
    continuations: int = 64
    window: int = 1 << 20
    """What a stream may send that nobody has read; a message that is longer comes in all the same."""
    connection_window: int = 16 << 20
    """Above the 65,535 with which HTTP/2 begins."""
    message: int = 64 << 20
    unread: int = 256 << 20
    """Of all streams. The one that brings more ends with RESOURCE_EXHAUSTED."""
    idle_frames: int = 10_000
    """Frames that bring nothing, at once: PING, SETTINGS, PRIORITY, unknown ones, empty DATA, streams that are reset
    before they were answered, frames of streams that are closed..."""
    idle_frames_per_second: int = 1_000
    updates: int = 50_000
    """Updates of windows beyond ten for each stream, and for each frame of data that was sent."""
    unsent: int = 1_000
    """Replies to such frames that a client has not read."""
    tick: float = 5.0
    """How often the following are looked at."""
    greeting: float = 10.0
    """Until a connection has begun with HTTP/2's preface, and TLS with its handshake."""
    first_message: float = 60.0
    """Until a stream has brought its first message."""
    silence: float = 60.0
    """After which a client is sent a PING..."""
    echo: float = 20.0
    """... to which there must be an answer, or anything else."""
    farewell: float = 1.0
    """Between the two steps of a graceful end, if the PING between them is not answered."""
    linger: float = 1.0
    """Until a connection that was ended is broken off if its client does not close it."""


DEFAULT = Bounds()


def with_room_for(body: int) -> Bounds:
    """In body mode BUFFERED a message holds a whole body, and what Envoy says of it."""
    message = max(DEFAULT.message, 2 * body)
    return replace(DEFAULT, message=message, unread=4 * message)
