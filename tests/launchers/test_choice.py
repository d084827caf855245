"""launcher.instance_type=auto: the machine on which a run costs least, against rows that were calculated by hand."""

from dataclasses import replace

import pytest

from dogbreed.errors import ConfigError
from dogbreed.workload import Workload
from launchers import prepare
from launchers.cost import choice
from launchers.cost.needs import Needs
from launchers.plan import Plan
from tests.support.plans import COMMANDS, planned

HEAD = Workload.of(planned("gpu").spec.config)  # of a ResNet50: 6,680 photos to train on, 1,671 others, 30 epochs
SMALL = Workload.of(planned("spot").spec.config)  # the quickstart
ALL = replace(HEAD, trainable="all", epochs=10)
LAYER4 = replace(HEAD, trainable="layer4", epochs=10)
GB8 = {"memory_gb": 8}

# Seconds and US dollars by hand. A ResNet50 takes 8.174 GFLOP a photo, layer4 1.618 of them, and its training three
# times as much; 104.4 steps an epoch take 5 ms each at least; every machine starts in 180 s. The head on ml.m7i.large,
# of 88 GFLOP/s and $0.121 an hour: 180 + 8351 x 8.174 / 88 + 30 x 104.4 x 0.005 = 971 s, x 0.121 / 3600 = $0.0326.
# The whole network on ml.g4dn.xlarge (4,000, $0.7364), 10 epochs:
# 180 + 10 x (6680 x 3 x 8.174 / 4000 + 0.52 + 1671 x 8.174 / 4000) = 629 s, $0.1286.
BY_HAND = {
    "a head": (HEAD, GB8, 1, 0, [("ml.m7i.large", 971, 0.0326), ("ml.c7i.xlarge", 584, 0.0347)]),
    "a head on a GPU": (HEAD, {"gpu": 1}, 1, 0, [("ml.g4dn.xlarge", 213, 0.0435), ("ml.g4dn.2xlarge", 213, 0.0556)]),
    "a whole network": (ALL, {}, 1, 0, [("ml.g4dn.xlarge", 629, 0.1286), ("ml.g5.xlarge", 333, 0.1303)]),
    "on more than 16 GB": (ALL, {"gpu": 1, "gpu_memory_gb": 24}, 1, 0, [("ml.g5.xlarge", 333, 0.1303)]),
    "for long": (replace(ALL, epochs=100), {}, 1, 0, [("ml.g5.xlarge", 1711, 0.6692), ("ml.g5.2xlarge", 1711, 0.7201)]),
    "its last stage": (LAYER4, {}, 1, 0, [("ml.g4dn.xlarge", 287, 0.0587), ("ml.g4dn.2xlarge", 287, 0.0749)]),
    "without a cache": (replace(HEAD, features="off"), {}, 1, 0, [("ml.g5.xlarge", 366, 0.1433)]),
    "eight vCPUs": (HEAD, {"vcpus": 8}, 1, 0, [("ml.c6i.2xlarge", 409, 0.0463)]),
    "the quickstart": (SMALL, GB8, 1, 0, [("ml.m5.large", 201, 0.0064), ("ml.m7i.large", 196, 0.0066)]),
    "48 GB on a GPU": (HEAD, {"gpu_memory_gb": 48}, 1, 0, [("ml.g6e.xlarge", 199, 0.1440)]),
    "a search of 30 trials": (
        HEAD,
        GB8,
        1,
        30,
        [("ml.m7i.large", 1106, 0.0372)],
    ),  # 30 x 30 x 104.4 x 0.0032 / 2 s of them
}


@pytest.mark.parametrize("setting", BY_HAND)
def test_the_cheapest_for_the_run_is_chosen(setting: str) -> None:
    workload, needs, instances, trials, by_hand = BY_HAND[setting]
    chosen = choice.choose(workload, Needs.of(needs), instances=instances, trials=trials)
    for offer, (name, seconds, usd) in zip(chosen.offers, by_hand, strict=False):
        assert offer.row.type == name
        assert offer.seconds == pytest.approx(seconds, rel=0.02)
        assert offer.usd == pytest.approx(usd, rel=0.02)


def test_what_is_withdrawn_is_never_chosen_however_cheap() -> None:
    offered = choice.choose(ALL, Needs({})).offers
    assert not any(offer.row.withdrawn for offer in offered)
    assert {"ml.p2.xlarge", "ml.p3.2xlarge"}.isdisjoint(offer.row.type for offer in offered)


def test_of_an_unknown_network_the_price_by_the_hour_decides() -> None:
    chosen = choice.choose(replace(HEAD, backbone="convnext_tiny"), Needs.of({"gpu": 1}))
    assert chosen.row.type == "ml.g4dn.xlarge"
    assert str(chosen).startswith("the cheapest with gpu=1, by the hour, because the time of this run\n")
    assert "estimates" not in str(chosen)


# --- in a plan ---

AUTO = [*COMMANDS["gpu"], "launcher.instance_type=auto"]


def plan_of(*words: str) -> Plan:
    return prepare([*AUTO, *words, "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])[1]


def test_a_plan_shows_the_choice_with_its_runners_up_and_asks_for_it() -> None:
    plan = plan_of("launcher.needs={gpu: 1, gpu_memory_gb: 16}")
    rows = dict(plan.rows)
    assert rows["machine"].splitlines() == [
        "the cheapest with gpu=1, gpu_memory_gb=16, for this run:",
        "ml.g4dn.xlarge    3.5 min   $0.0435  $0.736 an hour",
        "ml.g4dn.2xlarge   3.5 min   $0.0556  $0.94 an hour",
        "ml.g6.xlarge      3.4 min   $0.0643  $1.13 an hour",
        "ml.g6.2xlarge     3.4 min   $0.0697  $1.22 an hour",
        "Its speeds are estimates, not measurements: published specifications,",
        "scaled to what two Zen 4 cores reached",
    ]
    assert rows["where"].endswith("ml.g4dn.xlarge, on demand")
    assert plan.requests[-1].parameters["ResourceConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert "-cu1" in plan.requests[-1].parameters["AlgorithmSpecification"]["TrainingImage"]


def test_without_needs_it_is_a_machine_that_holds_the_run() -> None:
    assert plan_of().requests[-1].parameters["ResourceConfig"]["InstanceType"] == "ml.m7i.large"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["launcher.needs={gpu: 1, gpu_memory_gb: 90}"],
            "The nearest is ml.g6e.xlarge, which has gpu=1, gpu_memory_gb=48.",
        ),
        (["launcher.needs={gpus: 1}"], "launcher.needs knows no 'gpus', only gpu, gpu_memory_gb, vcpus, memory_gb."),
        (["launcher.needs={gpu: -1}"], "must name a number of at least 0 for gpu, got -1"),
        (["launcher.needs=16"], "launcher.needs must name amounts, got 16."),
        (["launcher.needs={gpu: 1}", "launcher.instance_type=ml.g5.xlarge"], "launcher.needs is only read with "),
        (["launcher.instance_type=automatic"], "launcher.instance_type=automatic is unknown."),
    ],
)
def test_what_cannot_be_chosen_is_one_clear_message(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match="Try: ") as error:
        plan_of(*words)
    assert said in str(error.value)
    assert "problems found" not in str(error.value)
