"""EventBridge Scheduler: one-time schedules that call an operation of AWS under their role, and delete themselves.

Sources: "Using universal targets" and "Schedule types" in the EventBridge Scheduler user guide.
"""

import json
import re
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dogbreed.run_folder import write_json
from launchers.aws.actions import SCHEDULER
from launchers.rehearsal.access import HERE, check_trust
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.schedule_target import call_target, check_target
from launchers.rehearsal.services.training_record import now

_GROUP = "default"
_ONCE = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_ATTEMPTS, _AGE_S = 185, 86400  # retries and seconds without a RetryPolicy
_TICK_S = 0.2
_LONGEST_PAUSE_S = 60.0  # between two attempts, on the cloud's clock


@dataclass
class Schedule:
    """One schedule. due: on the cloud's clock. attempts: of its invocation; next_at: when the next one is due."""

    name: str
    request: dict[str, Any]
    created: float
    due: float
    modified: float = 0.0
    attempts: int = 0
    next_at: float = 0.0
    completed: bool = False
    outcome: str = ""

    @property
    def arn(self) -> str:
        return HERE.arn("scheduler", f"schedule/{_GROUP}/{self.name}")

    @property
    def enabled(self) -> bool:
        return bool(self.request.get("State", "ENABLED") == "ENABLED")

    @property
    def policy(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self.request["Target"].get("RetryPolicy", {})
        return found

    def describe(self) -> Answer:
        kept = {key: value for key, value in self.request.items() if key != "ClientToken"}
        defaults = {"State": "ENABLED", "ScheduleExpressionTimezone": "UTC", "ActionAfterCompletion": "NONE"}
        policy = {"MaximumEventAgeInSeconds": _AGE_S, "MaximumRetryAttempts": _ATTEMPTS, **self.policy}
        target = {**self.request["Target"], "RetryPolicy": policy}
        dates = {"CreationDate": self.created, "LastModificationDate": self.modified or self.created}
        return {**defaults, **kept, "Target": target, "GroupName": _GROUP, "Arn": self.arn, **dates}

    def summary(self) -> Answer:
        shown = self.describe()
        keys = ("Arn", "Name", "GroupName", "State", "CreationDate", "LastModificationDate")
        return {**{key: shown[key] for key in keys}, "Target": {"Arn": self.request["Target"]["Arn"]}}


@dataclass
class Schedules:
    """All schedules of the group `default`. folder: contains a file for each of them."""

    folder: Path
    clock: Clock
    active: bool = field(default=False, init=False)  # an endpoint is; a schedule that is due later does not keep it up
    _schedules: dict[str, Schedule] = field(default_factory=dict, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)
    _ended: threading.Event = field(default_factory=threading.Event, init=False)
    _server: Server | None = field(default=None, init=False)

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        handlers = {
            "CreateSchedule": self.create,
            "GetSchedule": self.get,
            "UpdateSchedule": self.update,
            "DeleteSchedule": self.delete,
            "ListSchedules": self.list,
            "CreateScheduleGroup": self.refuse_group,
        }
        return {("scheduler", name): handler for name, handler in handlers.items()}

    def begin(self, server: Server) -> None:
        self._server = server
        for file in sorted(self.folder.glob("*.json")):
            self._schedules[file.stem] = Schedule(**json.loads(file.read_bytes()))
        threading.Thread(target=self._run, daemon=True, name="schedules").start()

    def end(self) -> None:
        self._ended.set()

    def create(self, call: Call) -> Answer:
        name = call.parameters["Name"]
        with self._lock:
            if name in self._schedules:
                raise _refused("ConflictException", f"Schedule {name} already exists.", 409)
            made = self._made(name, call.parameters, now())
        return {"ScheduleArn": made.arn}

    def update(self, call: Call) -> Answer:
        """Replace a schedule: what is left out has its default again."""
        with self._lock:
            before = self._schedule(call.parameters)
            made = self._made(before.name, call.parameters, before.created)
            made.modified = now()
        return {"ScheduleArn": made.arn}

    def get(self, call: Call) -> Answer:
        return self._schedule(call.parameters).describe()

    def delete(self, call: Call) -> Answer:
        with self._lock:
            self._remove(self._schedule(call.parameters))
        return {}

    def list(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            found = sorted(self._schedules.values(), key=lambda each: each.name)
        found = [each for each in found if each.name.startswith(asked.get("NamePrefix", ""))]
        if "State" in asked:
            found = [each for each in found if each.describe()["State"] == asked["State"]]
        first, most = int(asked.get("NextToken", 0)), asked.get("MaxResults", 100)
        rest = {"NextToken": str(first + most)} if len(found) > first + most else {}
        return {"Schedules": [each.summary() for each in found[first : first + most]], **rest}

    def refuse_group(self, call: Call) -> Answer:
        raise _refused("ValidationException", f"The rehearsal cloud has the schedule group {_GROUP} alone.")

    def _made(self, name: str, asked: Mapping[str, Any], created: float) -> Schedule:
        """Check a request, and keep the schedule that it describes. Raises Refused."""
        _group(asked)
        due = _due(asked)
        target = asked["Target"]
        source = HERE.arn("scheduler", f"schedule-group/{_GROUP}")
        try:
            context = {"aws:SourceAccount": [ACCOUNT], "aws:SourceArn": [source]}
            check_trust(target["RoleArn"], {"Service": [SCHEDULER]}, context)
        except Refused:
            text = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
            raise _refused("ValidationException", text) from None
        check_target(target)
        # time stamps are real, waits are on the clock: what is 60 s away is due once the clock has gone on by 60 s
        made = Schedule(name, dict(asked), created, self.clock.now() + due - time.time())
        self._schedules[name] = made
        self._save(made)
        return made

    def _schedule(self, asked: Mapping[str, Any]) -> Schedule:
        _group(asked)
        if asked["Name"] not in self._schedules:
            raise _refused("ResourceNotFoundException", f"Schedule {asked['Name']} does not exist.", 404)
        return self._schedules[asked["Name"]]

    def _save(self, schedule: Schedule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{schedule.name}.json", asdict(schedule))

    def _remove(self, schedule: Schedule) -> None:
        self._schedules.pop(schedule.name, None)
        (self.folder / f"{schedule.name}.json").unlink(missing_ok=True)

    # --- what happens when they are due ---

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                due = [each for each in self._schedules.values() if self._is_due(each)]
            for schedule in due:
                try:
                    self._invoke(schedule)
                except Exception:  # one odd schedule must not stop all others
                    traceback.print_exc()
                    schedule.completed = True
            time.sleep(_TICK_S)

    def _is_due(self, schedule: Schedule) -> bool:
        moment = max(schedule.due, schedule.next_at)
        return schedule.enabled and not schedule.completed and self.clock.now() >= moment

    def _invoke(self, schedule: Schedule) -> None:
        """Call the target once; plan the next attempt if it fails."""
        assert self._server is not None
        failure = call_target(schedule.request["Target"], schedule.name, self._server)
        with self._lock:
            if self._schedules.get(schedule.name) is not schedule:
                return  # deleted or replaced meanwhile
            schedule.attempts += 1
            schedule.outcome = failure or "delivered"
            age_s = self.clock.now() - schedule.due
            retries = schedule.policy.get("MaximumRetryAttempts", _ATTEMPTS)
            over = schedule.attempts > retries or age_s > schedule.policy.get("MaximumEventAgeInSeconds", _AGE_S)
            schedule.completed = not failure or over
            pause_s = min(2.0 ** min(schedule.attempts, 10), _LONGEST_PAUSE_S)
            schedule.next_at = self.clock.now() + pause_s
            if schedule.completed and schedule.request.get("ActionAfterCompletion") == "DELETE":
                self._remove(schedule)
            else:
                self._save(schedule)


def _due(asked: Mapping[str, Any]) -> float:
    """Return the real moment of a one-time schedule. Raises Refused for others."""
    expression = asked["ScheduleExpression"]
    found = _ONCE.fullmatch(expression)
    if found is None:
        if re.match(r"(rate|cron)\(", expression):
            raise _refused("ValidationException", "The rehearsal cloud has one-time schedules alone, as at(...).")
        raise _refused("ValidationException", f"Invalid Schedule Expression {expression}.")
    try:
        zone = ZoneInfo(asked.get("ScheduleExpressionTimezone", "UTC"))
        return datetime.fromisoformat(found[1]).replace(tzinfo=zone).timestamp()
    except ZoneInfoNotFoundError:
        text = f"The ScheduleExpressionTimezone {asked['ScheduleExpressionTimezone']} is invalid."
        raise _refused("ValidationException", text) from None
    except ValueError:
        raise _refused("ValidationException", f"Invalid Schedule Expression {expression}.") from None


def _group(asked: Mapping[str, Any]) -> None:
    if asked.get("GroupName", _GROUP) != _GROUP:
        raise _refused("ResourceNotFoundException", f"Schedule group {asked['GroupName']} does not exist.", 404)


def _refused(code: str, text: str, status: int = 400) -> Refused:
    return Refused(code, text, status, Message=text)
