"""Map calls of Application Auto Scaling to the IAM actions that they need, for launchers/aws/actions.py.

It calls other services under the caller's name, which the caller must be allowed as well: see "Permissions for API
calls on target services and CloudWatch" in its user guide.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from launchers.aws.machine_actions import MachineCall, Parameters, Wanted

if TYPE_CHECKING:
    from launchers.aws.actions import Where

SCALING = "sagemaker.application-autoscaling.amazonaws.com"
SCALING_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"


def _on_target(action: str) -> MachineCall:
    """An action on a scalable target, whose ARN ends with an id of AWS's own."""

    def found(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
        resource, unknown = str(parameters["ResourceId"]), not parameters
        targets = where.arn("application-autoscaling", "scalable-target/*")
        yield (
            f"application-autoscaling:{action}",
            targets,
            {
                "application-autoscaling:service-namespace": [str(parameters["ServiceNamespace"])],
                "application-autoscaling:scalable-dimension": [str(parameters["ScalableDimension"])],
            },
        )
        alarms = where.arn("cloudwatch", f"alarm:TargetTracking-{resource}-Alarm*")
        if action == "RegisterScalableTarget":
            if tagged := parameters.get("Tags") or ({"*": "*"} if unknown else {}):
                tags = {f"aws:RequestTag/{key}": [str(value)] for key, value in tagged.items()}
                yield ("application-autoscaling:TagResource", targets, tags)
            endpoint = where.arn("sagemaker", resource.partition("/variant/")[0])
            yield ("sagemaker:DescribeEndpoint", endpoint)
            yield ("sagemaker:UpdateEndpointWeightsAndCapacities", endpoint)
            # of an account that lacks the role
            role = where.role(f"aws-service-role/{SCALING}/{SCALING_ROLE}")
            yield ("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": [SCALING]})
        elif action == "PutScalingPolicy" and (unknown or parameters["PolicyType"] == "TargetTrackingScaling"):
            yield ("cloudwatch:PutMetricAlarm", alarms)
        elif action in ("DeleteScalingPolicy", "DeregisterScalableTarget"):
            yield ("cloudwatch:DeleteAlarms", alarms)

    return found


CALLS: Mapping[tuple[str, str], MachineCall] = {
    ("application-autoscaling", action): _on_target(action)
    for action in ("RegisterScalableTarget", "DeregisterScalableTarget", "PutScalingPolicy", "DeleteScalingPolicy")
}
