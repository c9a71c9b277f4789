"""What is one for the whole process, whatever configuration is at work: limits on all runs, and what they left."""

from dataclasses import dataclass, field

from extproc.config import Config
from extproc.config.entrypoints import OTHER
from extproc.process.outflow import Outflow
from extproc.process.runs import Runs
from extproc.process.states import in_memory
from extproc.process.tally import Tally
from extproc.process.tenants import Tenants
from extproc.signals.tally import SignalTally
from extproc.tracing import Tracer
from looper.admission import Admission
from looper.calling.budget import Purse
from looper.patterns.workflows.pauses.pausing import States
from looper.wire.tokens import Correction


@dataclass(frozen=True, slots=True)
class Process:
    """Survives every reload: what is open, spent or remembered stays so."""

    admission: Admission
    purse: Purse
    outflow: Outflow
    runs: Runs
    states: States
    tally: Tally = field(default_factory=Tally)
    signals: SignalTally = field(default_factory=SignalTally)
    correction: Correction = field(default_factory=Correction)
    tenants: Tenants = field(default_factory=lambda: Tenants({}, OTHER))
    tracer: Tracer | None = None
    """Makes spans, where somebody collects them."""

    @classmethod
    def of(
        cls, config: Config, states: States | None = None, tracer: Tracer | None = None
    ) -> "Process":
        """A process that begins with this configuration. Without `states` it keeps them by itself."""
        limits = config.limits
        return cls(
            admission=Admission(
                limits.max_runs,
                max_waiting=limits.max_waiting,
                patience=limits.patience.total_seconds(),
            ),
            purse=Purse(limits.ceiling),
            outflow=Outflow(limits.max_inflight_bytes),
            runs=Runs(config.trace),
            states=states or in_memory(config.state),
            tenants=Tenants(limits.tenants, OTHER),
            tracer=tracer,
        )

    def follow(self, config: Config) -> None:
        """Have the limits of another configuration. Raises OSError for a file of runs that cannot be written."""
        limits = config.limits
        self.runs.follow(config.trace)
        self.admission.resize(
            limits.max_runs,
            max_waiting=limits.max_waiting,
            patience=limits.patience.total_seconds(),
        )
        self.purse.limit(limits.ceiling)
        self.tenants.limit(limits.tenants)
        self.outflow.limit = limits.max_inflight_bytes
