"""Small photos and small settings, so that a real run takes seconds."""

import contextlib
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import aws_calls
import forking
import on_import
import pytest
import quick_runs
import sitecustomize  # noqa: F401 (this process is one of those that are kept from the network)
from hypothesis import HealthCheck, settings

from tests.support.photos import make_photos, tiny_settings

if TYPE_CHECKING:
    from launchers.rehearsal.cloud import Rehearsal

on_import.catch_up()
pytest.register_assert_rewrite("tests.support.launcher_contract")  # its asserts are to show what they compared

# the same examples each time, however long each takes on a busy machine; --hypothesis-profile=default draws others
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

# what is started by a shell with `&`, or by nohup, ignores these, and would hand that on to all that tests start
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

# where nobody keeps what Python has compiled, each of the processes would compile the whole project anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_CHILDREN = str(Path(__file__).parent / "support" / "children")
_reached = Path(tempfile.mkdtemp()) / "reached"
os.environ["REACHED_OUT"] = str(_reached)
if aws_calls.CALLS not in os.environ:  # one for all of xdist's workers
    os.environ[aws_calls.CALLS] = tempfile.mkdtemp()
_paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([_CHILDREN, *_paths]))  # once, in xdist's workers too

for _name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
    os.environ.pop(_name, None)
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(_reached.with_name("nobody"))
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # boto3 would look for credentials there
# the fork server imports ONNX Runtime before anything of ours could keep it from reporting (dogbreed/telemetry.py)
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # A CPU for each worker and what it starts: torch's threads of two workers would wait for each other
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cpus)]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 forget the credentials that it found in an earlier test."""
    if "boto3" in sys.modules:
        monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


@pytest.fixture(autouse=True)
def nothing_outside_is_reached() -> Iterator[None]:
    before = _reached.read_text() if _reached.exists() else ""
    yield
    after = _reached.read_text() if _reached.exists() else ""
    assert after == before, f"this test, or what it started, wanted to reach {after[len(before) :].split()}"


@pytest.fixture(scope="session", autouse=True)
def nobodys_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that live longer than a test: the cache of whoever runs the tests is not touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOGBREED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 8 + 3 + 3 photos each. Shared: not to be changed."""
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the cloud that tests share."""
    return tmp_path_factory.mktemp("cloud") / "state"


@pytest.fixture(scope="session")
def cloud(place: Path, photos: Path) -> "Iterator[Rehearsal]":
    """With those photos in its bucket. Shared: tests that kill it, or that need nobody else's jobs, start their own."""
    from tests.support.rehearsing import rehearsal_cloud

    with rehearsal_cloud(place, photos) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a database server. Shared: `empty_database` makes a database there for one test."""
    from tests.support.postgres import server

    with server() as address:
        yield address


@pytest.fixture
def tiny_overrides(photos: Path) -> list[str]:
    return tiny_settings(photos)


@pytest.fixture(autouse=True)
def as_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs end without model.tar.gz, compute features in eager torch and draw nothing, but where tests are marked."""
    for mark, variable in (("exports", quick_runs.EXPORTS), ("onnx", quick_runs.ONNX), ("plots", quick_runs.PLOTS)):
        if mark in request.keywords:
            monkeypatch.setenv(variable, "1")
    with forking.ordinary_start() if "ordinary_start" in request.keywords else contextlib.nullcontext():
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Runs that tests start are forked from a process that has imported torch (tests/support/children/forking.py).

    One for all of xdist's workers, which are of its session and find it by their environment.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ and not config.option.collectonly:
        with contextlib.ExitStack() as running:
            running.enter_context(forking.server(Path(tempfile.mkdtemp()) / "fork"))
            config.add_cleanup(running.pop_all().close)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the collector of garbage pass over what is imported and collected: millions of objects that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In xdist's workers, what takes longest begins first, so that none is left alone with it at the end."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    turns: dict[Path, int] = {}  # a file's tests stay together, with the fixtures that they share
    for item in items:
        turns[item.path] = min(_turn(item), turns.get(item.path, 2))
    items.sort(key=lambda item: turns[item.path])


def _turn(item: pytest.Item) -> int:
    """Clouds and several machines come first, then what has photos and trains."""
    trains = {"photos", "tiny_overrides"} & set(getattr(item, "fixturenames", ()))
    return 0 if "cloud" in item.keywords else 1 if trains else 2


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Hold, over the whole cloud tier, that launchers call what their policies grant, and that those grant no more."""
    config, option = session.config, session.config.option
    whole = config.args == config.getini("testpaths") and option.markexpr in ("cloud", "not slow")
    narrowed = option.keyword or option.collectonly or option.deselect or option.ignore or getattr(option, "lf", False)
    if "PYTEST_XDIST_WORKER" in os.environ or not whole or narrowed or exitstatus != pytest.ExitCode.OK:
        return
    from tests.support.permitted import differences

    if found := differences(Path(os.environ[aws_calls.CALLS])):
        text = "\n".join(["", "Calls of all tests and policies differ (tests/support/permitted.py):", *found])
        config.get_terminal_writer().line(text, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
