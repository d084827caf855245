"""Play the scenario of a deployment: made, updated, rolled back, asked and taken down, or left to end by itself."""

from dataclasses import dataclass
from typing import Any

from launchers.deploy.function import ALIAS
from launchers.deploy.launcher import DeployLauncher
from launchers.status import Handle, Phase
from tests.support.odd_pictures import saved, upright
from tests.support.scenarios.clouds import MODEL
from tests.support.scenarios.commands import Said, steady, wait_until
from tests.support.scenarios.played import MOST_ROUNDS, Played

_SETTINGS = {
    "endpoint": {},
    "front": {"launcher.front": "lambda", "launcher.reserved": "3"},
    "lambda": {"launcher.variant": "lambda", "launcher.reserved": "3"},
}
_NAME = "dogs"
_ENDPOINT = f"dogbreed-{_NAME}"


@dataclass
class PlayedDeployment(Played):
    """A deployment. Faults, and the end of a command, come when `scenario.during` says."""

    def play(self) -> None:
        scenario = self.scenario
        with self.server_dying():
            if scenario.abandoned:
                self._deploy("launcher.ttl_hours=0.05", first=True, killed=True)  # 18 s here; then nobody comes
            else:
                self._bring("create")
                self._go_through()
                self._end()
        if scenario.abandoned:
            wait_until(self._has_ended)
            self.happened.append("ended by itself")
            self.clean_up()
        self.check_account()

    def _go_through(self) -> None:
        before = self._serves()
        self.lack("status", _NAME)
        self.lack("logs", _NAME)
        if self.scenario.during in ("update", "rollback"):
            self._bring("update", self.scenario.change)
            assert self._serves() != before
        if self.scenario.during == "rollback":
            self._roll_back(before)
        self._ask()
        if self.scenario.lacking is not None and self.scenario.lacking.verb == "cleanup":
            self.clean_up_too_early()
            assert self._seen() is Phase.IN_SERVICE

    def _roll_back(self, before: list[Any]) -> None:
        """Type the rollback until what was there before serves, as somebody does who looks at what serves in between.

        One that was killed, or lacks a permission for what follows, may have done it: the next one would undo it.
        """
        self.lack("rollback", _NAME)
        self._wait_until_settled()
        for attempt in range(MOST_ROUNDS):
            if self._serves() == before:
                return
            said = self.type("launchers", "rollback", _NAME, *self.option, first=attempt == 0)
            if said.status == 1 and "is Updating" not in said.text:
                self.check_reason(said)
            if said.status != 0:
                self.happened.append("refused" if said.status == 1 else "killed")
            self._wait_until_settled()
        raise AssertionError("it could not be rolled back")

    def _bring(self, step: str, *more: str) -> None:
        """Type the command that deploys until the deployment is in service as the command asks."""
        for attempt in range(MOST_ROUNDS):
            verb = self.scenario.during in (
                "rollback",
                "cancel",
            )  # whose commands take no faults: the first one has them
            now = attempt == 0 and self.scenario.during == step
            said = self._deploy(*more, first=now or (attempt == 0 and step == "create" and verb), killed=now)
            if said.status == 0:
                self._wait_until_settled()
                self.happened.append(f"{step}d" if step.endswith("e") else step)
                return
            if said.status != 1:
                self.happened.append("killed")
                continue
            self.happened.append("refused")
            if "is being changed" not in said.text:
                self.check_reason(said)
            self.heed(said, "iam", "status", "attach")
        raise AssertionError(f"it did not come to {step}")

    def _deploy(self, *more: str, first: bool, killed: bool) -> Said:
        words = ["launcher=deploy", f"name={_NAME}", f"checkpoint={self.cloud.state / MODEL}", "launcher.bake_s=180"]
        changed = dict(word.split("=") for word in more)
        settings = [f"{key}={value}" for key, value in {**_SETTINGS[self.scenario.kind], **changed}.items()]
        cloud = [word for word in self.cloud_words(first=first) if not word.startswith("aws.role=")]
        return self.type("train.py", *words, *settings, *cloud, first=killed)

    def _verb(self, verb: str, *words: str) -> None:
        """Type a verb, and again if it was killed or refused, until it has done what it says."""
        for attempt in range(MOST_ROUNDS):
            said = self.type(
                "launchers", verb, *words, *self.option, first=attempt == 0 and self.scenario.during == verb
            )
            if said.status == 0:
                return
            if said.status == 1 and "is Updating" not in said.text:
                self.check_reason(said)
            self.happened.append("refused" if said.status == 1 else "killed")
            self._wait_until_settled()
        raise AssertionError(f"{verb} did not succeed")

    def _ask(self) -> None:
        photo = self.here / "photo.png"
        photo.write_bytes(saved(upright(), "PNG"))
        self.lack("invoke", _NAME, str(photo))
        said = self.type("launchers", "invoke", _NAME, str(photo), "--json", *self.option)
        assert len(next(iter(said.facts.values()))["probabilities"]) == 133, said

    def _end(self) -> None:
        self.lack("cancel", _NAME)
        if self.scenario.last == "cleanup" and self.scenario.during == "cancel":
            self.type("launchers", "cancel", _NAME, *self.option, first=True)
            if self._seen() is not Phase.LOST:
                self._verb("cancel", _NAME)
            self.clean_up()
            return
        for attempt in range(MOST_ROUNDS):
            said = self.type("launchers", "cancel", _NAME, *self.option, first=attempt == 0 and self._is_killed_then)
            if said.status == 0 or "There is no deployment" in said.text:
                self.happened.append("taken down")
                return
            if said.status == 1:
                self.check_reason(said)
            self.happened.append("killed" if said.status != 1 else "refused")
        raise AssertionError("it could not be taken down")

    @property
    def _is_killed_then(self) -> bool:
        return self.scenario.during == "cancel"

    # --- what is known of it ---

    def _launcher(self) -> DeployLauncher:
        return DeployLauncher.at(self.cloud.admin)

    def _seen(self) -> Phase:
        return steady(lambda: self._launcher().status(Handle("deploy", "rehearsal", _NAME)).phase)

    def _wait_until_settled(self) -> None:
        wait_until(lambda: self._seen() in (Phase.IN_SERVICE, Phase.FAILED, Phase.LOST))

    def _serves(self) -> list[Any]:
        """Return which configuration of an endpoint serves, which version of a function, and how many calls at once."""

        def read() -> list[Any]:
            found, client = list[Any](), self.cloud.admin.client
            if self.scenario.kind != "lambda":
                found.append(client("sagemaker").describe_endpoint(EndpointName=_ENDPOINT)["EndpointConfigName"])
            if self.scenario.kind != "endpoint":
                found.append(client("lambda").get_alias(FunctionName=_ENDPOINT, Name=ALIAS)["FunctionVersion"])
                found.append(client("lambda").get_function(FunctionName=_ENDPOINT)["Concurrency"])
            return found

        return steady(read)

    def _has_ended(self) -> bool:
        """Return whether nothing costs money any more. Schedules try for a day to delete what was never made."""
        free = ("schedule ", "log group ", "function's log group ")
        return all(text.startswith(free) for text in self.account.left())
