"""One endpoint being run: a thread that creates, supervises, updates and deletes its instances."""

import shutil
import threading
import time
import traceback
from contextlib import suppress

from launchers.rehearsal.machine import remove_left_over
from launchers.rehearsal.services.endpoint_fleet import Balancer, Fleet
from launchers.rehearsal.services.endpoint_instance import StartError, Surroundings, make_writable
from launchers.rehearsal.services.endpoint_record import EndpointRecord
from launchers.rehearsal.services.endpoint_update import Updating

_TICK_S = 0.05
_STEP_S = 0.1  # that phases take here which take minutes there


class EndpointRun(threading.Thread):
    """Follows the record's status, which operations set: Creating, Updating and Deleting lead to another one.

    fleet: the instances in service. green: those of an update, until they are in service or stopped.
    """

    def __init__(self, around: Surroundings) -> None:
        super().__init__(daemon=True, name=around.record.name)
        self.around, self.balancer = around, Balancer()
        self.fleet = Fleet(around, around.record.variants, around.record.config_name, around.record.metrics)
        self.green: Fleet | None = None
        self.returning = around.record.status in ("InService", "Updating")  # after a restart of the cloud
        self.gone = threading.Event()  # deleted
        self._abandoned = threading.Event()

    @property
    def record(self) -> EndpointRecord:
        return self.around.record

    def abandon(self) -> None:
        """Kill the instances, because the server shuts down. The record stays as it is."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            while not self._abandoned.is_set() and not self.gone.is_set():
                self._follow()
                time.sleep(_TICK_S)
        except Exception as error:
            traceback.print_exc()
            self.record.to("Failed", f"Request to service failed: {error!r}")
        finally:
            self.fleet.remove()
            if self.green is not None:
                self.green.remove()

    def look(self) -> None:
        """Supervise all instances, and keep those going whose containers have ended."""
        for fleet in (self.fleet, self.green):
            if fleet is not None:
                with suppress(StartError):
                    fleet.look()

    def _follow(self) -> None:
        if self.returning:
            self._create("")
            self.returning = False
        elif self.record.status == "Creating":
            time.sleep(_STEP_S)
            self._create("InService")
        elif self.record.status in ("Updating", "RollingBack"):
            Updating(self).run(self._abandoned.is_set)
        elif self.record.status == "Deleting":
            self._delete()
        else:
            self.look()

    def _create(self, status: str) -> None:
        """Bring the fleet into service. status: what the endpoint has then; empty if it stays as it is."""
        try:
            self.fleet.start(self._abandoned.is_set)
        except StartError as error:
            self.fleet.stop()
            self.record.to("Failed", str(error))
            return
        if not self._abandoned.is_set():
            self.balancer.share({self.fleet: 1.0})
            if status:
                self.record.to(status)

    def _delete(self) -> None:
        self.balancer.share({})
        self.fleet.stop()
        time.sleep(_STEP_S)
        remove_machines(self.record)
        shutil.rmtree(self.record.folder, ignore_errors=True)
        self.gone.set()


def remove_machines(record: EndpointRecord) -> None:
    """Delete the folders of the endpoint's machines, and end processes that a killed server has left on them."""
    for folder in record.folder.glob("machines/*"):
        make_writable(folder)
        remove_left_over(folder)
