"""The ways to serve a model under a name: what each of them is asked by the launcher.

The setting `launcher.variant` says which one a plan is for. Afterwards it is found by what exists under the name.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from dogbreed import commands
from launchers.base import Cloud
from launchers.deploy import names
from launchers.deploy.on_lambda.variant import OnLambda
from launchers.deploy.realtime import Realtime
from launchers.deploy.settings import DeploySettings
from launchers.plan import Plan, Request
from launchers.spec import Deployed, RunSpec
from launchers.status import Handle, LogLine, Phase, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher


class Serving(Protocol):
    """What serves under a name, as AWS describes it now."""

    @property
    def phase(self) -> Phase: ...

    def refuse_foreign(self, cloud: Cloud, name: str) -> None:
        """Raise LaunchError if it was not made by this launcher."""
        ...

    def overdue(self, cloud: Cloud, now: datetime) -> bool:
        """Return whether it should have been deleted by now, as its tag says."""
        ...

    def deployed(self, cloud: Cloud, name: str) -> Deployed:
        """Return it as far as plans and people compare it."""
        ...

    def status_of(self, cloud: Cloud, name: str) -> Status:
        """Return its status, without the end of its log and what to do next."""
        ...


class Variant(Protocol):
    """A way to serve a model. Every method but the first three talks to the account, and raises LaunchError."""

    name: ClassVar[str]  # as launcher.variant has it
    kind: ClassVar[str]  # of the part without which nothing is served, as in `parts.KINDS`

    def findings(self, settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
        """Yield what is wrong with the settings, as far as that can be checked without a network."""
        ...

    def rows(self, settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
        """Yield the rows of the plan."""
        ...

    def requests(self, settings: DeploySettings, spec: RunSpec) -> tuple[Request, ...]:
        """Return the calls of the plan, in order; none if there is nothing to do."""
        ...

    def make(self, launcher: "DeployLauncher", plan: Plan) -> None:
        """Carry out a plan; with `wait`, stay until the deployment answers."""
        ...

    def find(self, cloud: Cloud, name: str) -> Serving | None:
        """Return what serves under a name in this way; None if nothing does."""
        ...

    def names(self, cloud: Cloud) -> Iterator[str]:
        """Yield the names of the deployments that are served in this way."""
        ...

    def lines(self, cloud: Cloud, name: str) -> Sequence[LogLine]:
        """Return what a deployment has logged, in order of time."""
        ...

    def invoke(self, cloud: Cloud, name: str, picture: bytes) -> dict[str, Any]:
        """Return the answer to one picture."""
        ...

    def url(self, cloud: Cloud, name: str) -> str:
        """Return the URL at which it takes signed requests; empty if it has none."""
        ...

    def rollback(self, launcher: "DeployLauncher", handle: Handle) -> Status:
        """Bring the revision before into service."""
        ...


class Found(NamedTuple):
    """What serves under a name, and in which way."""

    variant: Variant
    serving: Serving


VARIANTS: dict[str, Variant] = {each.name: each for each in (Realtime(), OnLambda())}


def find(cloud: Cloud, name: str) -> Found | None:
    """Return what serves under a name now; None if nothing does, also where AWS would not take such a name."""
    if not names.is_name(name):
        return None
    for variant in VARIANTS.values():
        serving = variant.find(cloud, name)
        if serving is not None:
            return Found(variant, serving)
    return None


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield what is wrong with the settings, that of the variant first."""
    variant = VARIANTS.get(settings.variant)
    if variant is None:
        yield f"launcher.variant={settings.variant!r} is not a way to serve a model.\nTry: {', '.join(VARIANTS)}"
        return
    before = spec.deployment.before if spec.deployment is not None else None
    if before is not None and before.variant != settings.variant:
        yield (
            f"{spec.run_id} is served with launcher.variant={before.variant}, and an update cannot change that.\n"
            f"Try: another name=; or {commands.launchers('cancel', spec.run_id)}, and then the same command"
        )
    yield from variant.findings(settings, spec)
