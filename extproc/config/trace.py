"""What is kept of runs: the settings."""

from typing import Literal

from pydantic import Field

from looper.settings import ByteCount, Probability, Setting


class RoutedTrace(Setting):
    """What is kept of requests that Envoy routed to one model: apart, as there may be thousands for a team's run."""

    keep: int = Field(default=256, ge=0, le=100_000, description="in memory, beside teams' runs")
    per_second: float = Field(
        default=100.0, gt=0, description="records at the most, on the long run; others leave none"
    )
    sample: Probability = Field(default=1.0, description="the part of these that goes to the file")


class TraceSettings(Setting):
    """What is kept of each run. Without `full`, nothing of what was said."""

    record: Literal["none", "metadata", "full"] = "metadata"
    keep: int = Field(default=256, ge=0, le=100_000, description="runs in memory")
    file: str | None = Field(
        default=None, pattern=r"^/", description="JSON lines; default: no file"
    )
    sample: Probability = Field(default=1.0, description="the part of runs that goes to the file")
    max_bytes: ByteCount = Field(
        default=64 << 20, description="of a file, before the next is begun"
    )
    files: int = Field(default=4, ge=1, le=1000, description="older files that are kept")
    routed: RoutedTrace = RoutedTrace()
