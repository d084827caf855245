"""What moto's IAM and STS lack: SimulatePrincipalPolicy, limits of sizes, GetCallerIdentity for the administrator."""

from collections.abc import Mapping
from dataclasses import replace

from launchers.aws.actions import Need
from launchers.aws.policy import INLINE_CHARACTERS, MANAGED_CHARACTERS
from launchers.rehearsal.access import allowed
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.principals import principal_of
from launchers.rehearsal.service import Answer, Call, Handler, Refused


class Identities:
    """Says who calls, and what the policies of a role or a user allow; no state."""

    def __init__(self) -> None:
        self.operations: Mapping[tuple[str, str], Handler] = {
            ("iam", "SimulatePrincipalPolicy"): self.simulate,
            ("iam", "PutRolePolicy"): limit_inline,
            ("iam", "CreatePolicy"): limit_managed,
            ("iam", "CreatePolicyVersion"): limit_managed,
            ("sts", "GetCallerIdentity"): self.caller,
        }

    active = False

    def begin(self, server: Server) -> None:
        """Do nothing: there is no state."""

    def end(self) -> None:
        """Do nothing: nothing is running."""

    def caller(self, call: Call) -> Answer:
        return {"UserId": call.caller.rpartition(":")[2], "Account": ACCOUNT, "Arn": call.caller}

    def simulate(self, call: Call) -> Answer:
        asked = call.parameters
        principal = principal_of(asked["PolicySourceArn"])
        if principal is None:
            raise Refused("NoSuchEntity", f"{asked['PolicySourceArn']} cannot be found.", 404)
        actions, resources = asked["ActionNames"], asked.get("ResourceArns", ["*"])
        if "*" in resources and len(resources) > 1:  # AWS simulates these apart
            both = f"[{actions[0]}] and [{actions[-1]}]"
            raise Refused("InvalidInput", f"Invalid Input Actions: {both} require different authorization information")
        # the faults take permissions from whoever calls, and from the role of its jobs
        who = call.caller.split("/")  # arn:aws:sts::123456789012:assumed-role/NAME/SESSION
        themselves = len(who) > 1 and asked["PolicySourceArn"].endswith(f"/{who[1]}")
        denied = call.faults.denied if themselves else call.faults.denied_to_role
        principal = replace(principal, denied=tuple(denied))
        context = {each["ContextKeyName"]: each["ContextKeyValues"] for each in asked.get("ContextEntries", [])}
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": str(allowed(principal, Need(action, resource, context))),
            }
            for action in actions
            for resource in resources
        ]
        return {"EvaluationResults": results, "IsTruncated": False}


def limit_inline(call: Call) -> Answer | None:
    """Refuse a policy that is too large for a role; moto takes the others. A role of ours has one policy inside it."""
    if _characters(call) > INLINE_CHARACTERS:
        text = f"Maximum policy size of {INLINE_CHARACTERS} bytes exceeded for role {call.parameters['RoleName']}"
        raise Refused("LimitExceeded", text, 409)
    return None


def limit_managed(call: Call) -> Answer | None:
    """Refuse a managed policy that is too large; moto takes the others."""
    if _characters(call) > MANAGED_CHARACTERS:
        raise Refused("LimitExceeded", f"Cannot exceed quota for PolicySize: {MANAGED_CHARACTERS}", 409)
    return None


def _characters(call: Call) -> int:
    return len("".join(call.parameters["PolicyDocument"].split()))
