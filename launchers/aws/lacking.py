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
    taken: Sequence[tuple[str, Identity]],
    typed: Sequence[str],
    *,
    note: str = "",
    what: str = "run",
) -> str:
    """Return a warning of what the caller and the roles that are taken lack, or may lack; empty if nothing.

    launch: what the caller needs. taken: the ARN of each role, and what it needs. typed: the overrides of the run.
    note: on what a role may lack, said if AWS does not tell what it lacks. what: that fails without it, a run or a
    deployment.

    It is a warning, because the policy of a bucket or key may allow what a role's own policies do not, and because a
    simulation does not know all of a request, such as whether the caller has used a second factor.
    """
    asked = repr((cloud, caller, launch, taken))
    if asked in _sufficient:
        return ""
    found: list[tuple[str, str]] = []  # who lacks something, and what
    if lacks := roles.lacking(cloud, roles.principal_arn(cloud, caller.arn), launch.grants):
        found.append((caller.arn, f"You ({caller.arn}) lack permissions, by your own policies:\n{_listed(lacks)}"))
    for arn, identity in taken:
        lacks = roles.lacking(cloud, arn, identity.grants)
        if lacks:
            text = f"The role of {identity.purpose}, {arn}, lacks permissions, by its own policies:\n{_listed(lacks)}"
            found.append((arn, f"{text}\nUnless a policy of the resource allows it, the {what} will fail."))
        elif lacks is None and note:
            text = f"iam:SimulatePrincipalPolicy on {arn} is not permitted to you"
            found.append((arn, f"{text}, so it is not known what the role of {identity.purpose} lacks.\n{note}"))
    if not found:
        _sufficient.add(asked)
        return ""
    lacking = dict.fromkeys(arn for arn, _ in found)
    return "\n".join([*(text for _, text in found), *_remedy(taken, typed, lacking)])


def _remedy(taken: Sequence[tuple[str, Identity]], typed: Sequence[str], lacking: Iterable[str]) -> Iterator[str]:
    """Yield what to try. lacking: the ARNs of those who lack something, each once."""
    own = [role_name("launch"), *(role_name(identity.name) for _, identity in taken)]
    foreign = [arn for arn in lacking if name_of_role(arn) not in own]
    yield f"Try: {grant_command(typed, without=[identity.setting for arn, identity in taken if arn in foreign])}"
    if foreign:
        names = " and ".join(arn.rpartition(":")[2] for arn in foreign)
        ours = ", ".join(own[:-1]) + f" and {own[-1]}"
        yield f"It creates {ours}, to be used instead, and does not change {names}."


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
        f"{grant_command(typed, without=[setting])}\n"
        f"and use it: {setting}={own}"
    )


def grant_command(typed: Sequence[str], *, without: Sequence[str] = ()) -> str:
    """Return the command that gives our roles what a run needs. An administrator of the account types it.

    typed: the overrides of the run. without: the settings of roles of one's own, so that ours are created instead.
    """
    left_out = ("aws.faults", "aws.reclaims", "aws.launch_as", *without)  # the first ones are of a rehearsal
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
