"""Train a dog breed classifier on the machine that the launcher names. `python train.py --help` lists all settings."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from dogbreed.distributed import ranks
from launchers.base import Launcher
from launchers.capacity_wait import CapacityWait
from launchers.cli.command_line import command_line
from launchers.describe import describe
from launchers.follow import detached


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run once and return the objective that a sweep optimises."""
    spec = describe(cfg)  # first: it lists all missing values at once
    launcher: Launcher = instantiate(cfg.launcher, _convert_="all")  # plain lists and dicts: boto3 refuses others
    plan = launcher.plan(spec)
    if cfg.dry_run:
        print(plan)
        return None
    if plan.requests:
        print(plan.brief())  # the price, before anything costs money
    submission = CapacityWait(launcher)
    handle = submission.submit(plan)
    if not ranks.here().first:  # when several processes train one run, only the first reports its result
        return None
    if not launcher.wait and not launcher.status(handle).finished:
        print(detached(launcher, handle))
        return None
    result = submission.follow(plan)
    print(result)
    return result.metrics.get(cfg.monitor)  # a deployment has none


if __name__ == "__main__":
    with command_line():
        main()
