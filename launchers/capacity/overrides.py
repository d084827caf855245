"""The overrides of train.py that deploy a setting."""

from launchers.aws.scaling import SAFETY, StepScaling, TargetTracking
from launchers.capacity.setting import Endpoint, Function, Setting

DEFAULT_TYPE = "ml.c7i.large"  # of launcher=deploy, as the other numbers below are
_OUT_S = {"concurrency": 60, "report": 60, "invocations": 300}


def reason_against(setting: Setting) -> str:
    """Return why `launcher=deploy` cannot make it so; empty if it can."""
    function, about = setting.function, setting.endpoint
    if about is None:
        if function is not None and function.provisioned:
            return "launcher=deploy keeps no slots warm of a function with the model inside"
        return ""
    if about.scales and isinstance(about.policy, TargetTracking) and about.metric == "cpu":
        return "launcher=deploy has no target tracking of the CPU; its policy report reacts to it, and sooner"
    return ""


def overrides(setting: Setting) -> list[str]:
    """Return the overrides, for a deployment that stays. Raises ValueError if there are none."""
    if reason := reason_against(setting):
        raise ValueError(reason)
    found = ["launcher=deploy"]
    if setting.endpoint is None:
        assert setting.function is not None, "a setting has a function or an endpoint"
        found += ["launcher.variant=lambda", f"launcher.reserved={setting.function.slots}"]
    else:
        found += _endpoint(setting.endpoint)
        if setting.function is not None:
            found += _front(setting.function)
    return [*found, "launcher.ttl_hours=null"]


def _endpoint(about: Endpoint) -> list[str]:
    found = []
    if about.type != DEFAULT_TYPE:
        found += [f"launcher.instance_type={about.type}", "launcher.fallback_type=null"]
    if not about.scales:
        return [*found, "launcher/scaling=none", f"launcher.instances={about.least}"]
    name, own = _policy(about)
    rule = about.policy
    assert rule is not None
    found += [f"launcher/scaling={name}", f"launcher.scaling.min={about.least}", f"launcher.scaling.max={about.most}"]
    if rule.out_s != _OUT_S[name]:
        own.append(f"launcher.scaling.out_s={rule.out_s:g}")
    return [*found, *own]


def _policy(about: Endpoint) -> tuple[str, list[str]]:
    """Return a policy's name in conf/launcher/scaling, and the numbers in which it differs from what is there."""
    rule = about.policy
    if isinstance(rule, StepScaling):
        assert rule.low is not None
        numbers = [("cpu_percent", rule.high.threshold, 140), ("calm_percent", rule.low.threshold, 70)]
        differing = [(key, value) for key, value, usual in numbers if round(value, 6) != usual]
        return "report", [f"launcher.scaling.{key}={value:.6g}" for key, value in differing]
    assert isinstance(rule, TargetTracking)
    if about.metric == "invocations":
        return "invocations", [f"launcher.scaling.max_rps={rule.target / 60 / SAFETY:.6g}"]
    same = rule.target == about.vcpus
    return "concurrency", [] if same else [f"launcher.scaling.target={rule.target:g}"]


def _front(function: Function) -> list[str]:
    found = ["launcher.front=lambda", f"launcher.reserved={function.slots}"]
    return [*found, f"launcher.provisioned={function.provisioned}"] if function.provisioned else found
