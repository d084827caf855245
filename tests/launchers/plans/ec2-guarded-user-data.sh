#!/bin/bash
# Run 20261124-120000-abcd of dogbreed: installs a unit that trains, saves to S3 and ends this machine.
set -u
mkdir -p /opt/dogbreed/tmp

cat > /opt/dogbreed/start.sh <<'START'
#!/bin/bash
set -u
export AWS_DEFAULT_REGION=eu-west-1 TMPDIR="${TMPDIR:-/opt/dogbreed/tmp}"
DOGBREED_BEGAN=$(cut -d ' ' -f 1 /proc/uptime)
export DOGBREED_BEGAN
bucket=my-bucket
bundle=dogbreed/code/00000000000000000000000000000000/bundle.tar.gz
submission=dogbreed/runs/20261124-120000-abcd/submissions/2.json
deadline=1764000000

# the group ends this machine at its deadline; should that fail, the machine does
minutes=$(((deadline - $(date +%s)) / 60 + 5))
shutdown -P "+$((minutes > 5 ? minutes : 5))"

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
if [ -z "$python" ]; then
  dnf install -y -q python3.12 python3.12-pip &&
    python3.12 -m venv /opt/dogbreed/venv &&
    /opt/dogbreed/venv/bin/python -m pip install -q 'torch==2.13.*' torchvision
  python=$(find_python)
fi
if [ -z "$python" ]; then
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
Description=dogbreed run 20261124-120000-abcd
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
