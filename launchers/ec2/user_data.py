"""Write the script that a machine runs when it starts for the first time. Pure: the same arguments, the same script.

It installs a systemd unit, whose command finds the interpreter that imports torch, fetches the code from S3 and starts
launchers/remote/ec2.py. Nothing in it is secret: whoever may describe the launch template can read it.
"""

import base64

from dogbreed import commands

MOST_BYTES = (
    16_384  # before base64: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html
)
_LATER_MIN = 5  # after the group's deadline, when the machine ends itself in case the group has not
_TEMPLATE = r"""#!/bin/bash
# Run @RUN@ of dogbreed: installs a unit that trains, saves to S3 and ends this machine.
set -u
mkdir -p /opt/dogbreed/tmp

cat > /opt/dogbreed/start.sh <<'START'
#!/bin/bash
set -u
export AWS_DEFAULT_REGION=@REGION@ TMPDIR="${TMPDIR:-/opt/dogbreed/tmp}"
DOGBREED_BEGAN=$(cut -d ' ' -f 1 /proc/uptime)
export DOGBREED_BEGAN
bucket=@BUCKET@
bundle=@BUNDLE@
submission=@SUBMISSION@
deadline=@DEADLINE@

# the group ends this machine at its deadline; should that fail, the machine does
minutes=$(((deadline - $(date +%s)) / 60 + @LATER@))
shutdown -P "+$((minutes > @LATER@ ? minutes : @LATER@))"

# Print the interpreter that imports torch.
find_python() {
  local each
  for each in /opt/pytorch/bin/python /opt/conda/bin/python3 /opt/dogbreed/venv/bin/python python3; do
    if "$each" -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$each"
      return
    fi
  done
  return 1
}

# End for good: the group is told not to replace this machine. Where that cannot be said, the group replaces it.
give_up() {
  echo "dogbreed: $1"
  "${python:-python3}" - <<'PYTHON' || shutdown -h now
import os, urllib.request
import boto3

place = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
opened = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

def ask(path, method, name, value):
    headers = {"X-aws-ec2-metadata-" + name: value}
    request = urllib.request.Request(place.rstrip("/") + path, headers=headers, method=method)
    return opened(request, timeout=5).read().decode()

token = ask("/latest/api/token", "PUT", "token-ttl-seconds", "60")
boto3.client("autoscaling").terminate_instance_in_auto_scaling_group(
    InstanceId=ask("/latest/meta-data/instance-id", "GET", "token", token), ShouldDecrementDesiredCapacity=True
)
PYTHON
  sleep 300
  exit 1
}

python=$(find_python)
@INSTALL@if [ -z "$python" ]; then
  give_up "no Python on this image imports torch"
fi
"$python" -c 'import boto3' 2>/dev/null || "$python" -m pip install -q boto3
echo "$("$python" -V) in $python"

for wait in 2 5 10 20 40 0; do
  if "$python" -c 'import sys, boto3; boto3.client("s3").download_file(*sys.argv[1:])' \
    "$bucket" "$bundle" /opt/dogbreed/bundle.tar.gz; then
    break
  fi
  [ "$wait" -gt 0 ] || give_up "the code cannot be fetched from s3://$bucket/$bundle"
  sleep "$wait"
done
rm -rf /opt/dogbreed/code
mkdir -p /opt/dogbreed/code
tar -xzf /opt/dogbreed/bundle.tar.gz -C /opt/dogbreed/code
exec "$python" -u /opt/dogbreed/code/launchers/remote/ec2.py "$bucket" "$submission" /opt/dogbreed
START

cat > /etc/systemd/system/dogbreed.service <<'UNIT'
[Unit]
Description=dogbreed run @RUN@
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/bin/bash /opt/dogbreed/start.sh
ExecStopPost=/bin/bash -c 'shutdown -h now'
KillMode=mixed
TimeoutStopSec=115
StandardOutput=journal+console

[Install]
WantedBy=multi-user.target
UNIT

systemctl daemon-reload
systemctl enable dogbreed.service
systemctl start --no-block dogbreed.service
"""
_INSTALL = r"""if [ -z "$python" ]; then
  dnf install -y -q python3.12 python3.12-pip &&
    python3.12 -m venv /opt/dogbreed/venv &&
    /opt/dogbreed/venv/bin/python -m pip install -q @TORCH@ torchvision
  python=$(find_python)
fi
"""


def user_data(
    *, run_id: str, region: str, bucket: str, bundle: str, submission: str, deadline: int, install_torch: str | None
) -> str:
    """Return the script.

    bundle, submission: keys of the code and of the submission in the bucket. deadline: seconds since 1970.
    install_torch: the version to install on an image that has none; None for a Deep Learning AMI.
    """
    install = "" if install_torch is None else _INSTALL.replace("@TORCH@", commands.shell(f"torch=={install_torch}.*"))
    values = {
        "RUN": run_id,  # in a comment and a description: launchers/runs/names.py allows neither % nor line ends
        "REGION": commands.shell(region),
        "BUCKET": commands.shell(bucket),
        "BUNDLE": commands.shell(bundle),
        "SUBMISSION": commands.shell(submission),
        "DEADLINE": str(deadline),
        "LATER": str(_LATER_MIN),
        "INSTALL": install,
    }
    text = _TEMPLATE
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def encoded(script: str) -> str:
    """Return the script as a launch template takes it."""
    return base64.b64encode(script.encode()).decode()


def too_large(script: str) -> str:
    """Return a finding if AWS would refuse the script because of its size; empty if not."""
    size = len(script.encode())
    if size <= MOST_BYTES:
        return ""
    return (
        f"The user data has {size:,} bytes, and EC2 takes at most {MOST_BYTES:,}.\n"
        "Try: a shorter launcher.prefix, and a shorter run_id"
    )
