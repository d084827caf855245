"""What moto's IAM and STS lack: SimulatePrincipalPolicy, and GetCallerIdentity for the account's administrator."""

from collections.abc import Mapping
from dataclasses import replace

from launchers.aws.actions import Need
from launchers.rehearsal.access import allowed
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.principals import principal_of
from launchers.rehearsal.service import Answer, Call, Handler, Refused


class Identities:
    """Says who calls, and what the policies of a role or a user allow; no state."""

    def __init__(self) -> None:
        self.operations: Mapping[tuple[str, str], Handler] = {
            ("iam", "SimulatePrincipalPolicy"): self.simulate,
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
            for action in asked["ActionNames"]
            for resource in asked.get("ResourceArns", ["*"])
        ]
        return {"EvaluationResults": results, "IsTruncated": False}
