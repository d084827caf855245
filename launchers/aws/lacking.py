"""Warn of permissions that are lacking before anything is submitted, and name the command that grants them."""

from collections.abc import Iterable, Iterator, Sequence

from dogbreed import commands
from launchers.aws import roles
from launchers.aws.iam import Caller
from launchers.aws.policy import Identity, name_of_role, role_name
from launchers.base import Cloud
from launchers.overrides import override_key, root_key

_sufficient: set[str] = set()  # what lacked nothing in this process: each trial of a search would ask again


def warning(
    cloud: Cloud,
    caller: Caller,
    launch: Identity,
    machine: Identity,
    role_arn: str,
    typed: Sequence[str],
    note: str = "",
) -> str:
    """Return a warning of what the caller and the role of the rented machine lack, or may lack; empty if nothing.

    launch: what the caller needs. machine: what the role needs. typed: the overrides of the run. note: on what the role
    may lack, said if AWS does not tell what it lacks.

    It is a warning, because the policy of a bucket or key may allow what a role's own policies do not, and because a
    simulation does not know all of a request, such as whether the caller has used a second factor.
    """
    asked = repr((cloud, caller, role_arn, launch, machine))
    if asked in _sufficient:
        return ""
    found: dict[str, str] = {}  # by who lacks something
    if lacks := roles.lacking(cloud, roles.principal_arn(cloud, caller.arn), launch.grants):
        found[caller.arn] = f"You ({caller.arn}) lack permissions, by your own policies:\n{_listed(lacks)}"
    lacks = roles.lacking(cloud, role_arn, machine.grants)
    if lacks:
        found[role_arn] = (
            f"The role of {machine.purpose}, {role_arn}, lacks permissions, by its own policies:\n{_listed(lacks)}\n"
            "Unless a policy of the resource allows it, the run will fail."
        )
    elif lacks is None and note:
        asked_for = f"iam:SimulatePrincipalPolicy on {role_arn} is not permitted to you"
        found[role_arn] = f"{asked_for}, so it is not known what the role of {machine.purpose} lacks.\n{note}"
    if not found:
        _sufficient.add(asked)
        return ""
    ours = (role_name(launch.name), role_name(machine.name))
    foreign = [arn for arn in found if name_of_role(arn) not in ours]
    return "\n".join([*found.values(), *_remedy(machine, typed, foreign, role_arn in foreign)])


def _remedy(machine: Identity, typed: Sequence[str], foreign: Sequence[str], drop_role: bool) -> Iterator[str]:
    """Yield what to try. foreign: who lacks something and was not created by us."""
    yield f"Try: {grant_command(typed, without=machine.setting if drop_role else '')}"
    if foreign:
        names, own = " and ".join(arn.rpartition(":")[2] for arn in foreign), role_name(machine.name)
        yield f"It creates {role_name('launch')} and {own}, to be used instead, and does not change {names}."


def how_to_grant(identity: str, setting: str, role: str, typed: Sequence[str]) -> str:
    """Return how the role of a rented machine gets what its run needs.

    identity: the name of the machine's `Identity`, and setting: its setting, which names the role. role: its name or
    ARN. typed: the overrides of the run.
    """
    name, own = role.rpartition("/")[2], role_name(identity)
    if name == own:
        return f"An administrator grants it to the role {name} with: {grant_command(typed)}"
    return (
        f"Have this permission added to the role {name}. Or create {own}, which has it, with:\n"
        f"{grant_command(typed, without=setting)}\n"
        f"and use it: {setting}={own}"
    )


def grant_command(typed: Sequence[str], *, without: str = "") -> str:
    """Return the command that gives our roles what a run needs. An administrator of the account types it.

    typed: the overrides of the run. without: the setting of a role of one's own, so that ours is created instead.
    """
    left_out = ("aws.faults", "aws.reclaims", "aws.launch_as", *([without] if without else []))  # of a rehearsal
    keys = ("launcher", "aws", "data")
    chosen = [
        text
        for text in typed
        if (root_key(text) in keys or text == "hpo=sagemaker_tuner")
        and not (override_key(text) or "").startswith(left_out)
    ]
    return commands.launchers("iam", "--apply", *(["--for", *chosen] if chosen else []))


def _listed(lacks: Iterable[roles.Lack]) -> str:
    return "\n".join(f"  {lack}" for lack in lacks)
