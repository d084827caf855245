"""Start a run from a notebook: `launch`, or `prepare` for its plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launchers.base import Launcher
from launchers.plan import Plan
from launchers.status import Handle, LaunchError


def launch(overrides: Sequence[str] = ()) -> Handle:
    """Start a run from a notebook: `launch(["experiment=quickstart"])` is `python train.py experiment=quickstart`.

    With the local launcher it returns when the run has ended, and raises the error that stopped it. If there is no
    machine for a remote run, it waits up to launcher.wait_for_capacity_h hours (0 by default) before it raises.
    """
    from launchers.capacity_wait import CapacityWait

    launcher, plan = prepare(overrides)
    if plan.spec.config["dry_run"]:
        print(plan)
        return plan.handle
    return CapacityWait(launcher).submit(plan)


def prepare(overrides: Sequence[str] = ()) -> tuple[Launcher, Plan]:
    """Plan a run: `launcher.submit(plan)` then starts it, and `launcher.result(plan.handle)` reads its result.

    overrides: as the words of a command, so --config-name, --config-path and --config-dir may be among them. Raises
    ConfigError for words that do not fit, and LaunchError for a search.
    """
    from contextlib import nullcontext
    from copy import deepcopy

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    import launchers.resolvers  # noqa: F401 (registers the resolvers of conf/)
    from dogbreed.errors import ConfigError
    from launchers import hydra_errors
    from launchers.config_sources import ConfigSources
    from launchers.describe import describe
    from launchers.project import PROJECT
    from launchers.resume import expand

    if not (PROJECT / "conf" / "config.yaml").exists():
        raise LaunchError(f"{PROJECT} has no conf/config.yaml.\nTry: pip install -e . in a clone of the project")
    sources, typed = ConfigSources.split(expand(overrides))
    if sources.beside is not None and not Path(sources.beside).is_dir():
        raise ConfigError(hydra_errors.no_folder(Path(sources.beside)))
    composing = GlobalHydra.instance().is_initialized()  # inside a Hydra application, such as a sweep
    folder = sources.folder or str(PROJECT / "conf")
    try:
        with nullcontext() if composing else initialize_config_dir(folder, version_base="1.3"):
            if not composing and sources.beside is not None:
                _search_beside(sources.beside)
            whole = compose(sources.name, [*sources.searchpath, *typed], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hydra_errors.message(error, overrides)) from error
    if whole.hydra.runtime.choices.get("hpo") not in (None, "none"):
        raise LaunchError(
            "launch and prepare start one run, but hpo= asks for a search.\nTry: python train.py -m hpo=optuna ..."
        )
    _ = whole.run_id  # drawn before the copy, so that the folder's name and the key agree
    cfg = deepcopy(whole)
    with open_dict(cfg):
        del cfg["hydra"]
    spec = describe(cfg, whole.hydra)
    launcher: Launcher = instantiate(cfg.launcher, _convert_="all")
    return launcher, launcher.plan(spec)


def _search_beside(folder: str) -> None:
    """Add a folder of configs as --config-dir does: unlike hydra.searchpath, it may hold the primary config."""
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    loader: Any = GlobalHydra.instance().config_loader()
    path = loader.get_search_path()
    path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    loader.repository.initialize_sources(path)
