"""Measures what one look of `imagebuilder roll` asks for, by the size of the fleet; prints ratios of one run.

Run by `bench/run.sh`. The fleet is one of puppets; their agents' records are written by this program. A relay between `imagebuilder` and the
cloud counts the calls by name: a look begins with the one DescribeInstanceRefreshes that names the refresh.
"""

import argparse
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from rehearsal import ROWS, Cloud, row, wait_for

CONFIG = """\
[image]
name = "bench"
[image.source]
owners = ["self"]
name = "bench-*"
[image.agent]
binary = "imagebuilder-agent"
[fleet]
group = "bench"
[roll]
poll_seconds = 1
instance_warmup_seconds = 2
"""


class Relay(http.server.ThreadingHTTPServer):
    """Passes every call on and keeps its name."""

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cloud, self.names, self.lock = port, [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        action = re.search(rb"Action=(\w+)", body)
        name = action[1].decode() if action else self.headers.get("X-Amz-Target", "?").partition(".")[2]
        if b"InstanceRefreshIds" in body:
            name = "look"
        with self.server.lock:
            self.server.names.append(name)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.cloud)
        upstream.request("POST", self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    def log_message(self, *_):
        pass


def agents(cloud, done):
    """Writes a fit record for every member that has none, as its agent would, until `done`."""
    ssm, scaling, known = cloud.client("ssm"), cloud.client("autoscaling"), set()
    ec2 = cloud.client("ec2")
    while not done.wait(0.5):
        members = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=["bench"])["AutoScalingGroups"]
        fresh = [m["InstanceId"] for group in members for m in group["Instances"] if m["InstanceId"] not in known]
        for start in range(0, len(fresh), 100):
            for reservation in ec2.describe_instances(InstanceIds=fresh[start : start + 100])["Reservations"]:
                for instance in reservation["Instances"]:
                    record = {
                        "schema": 1,
                        "instance_id": instance["InstanceId"],
                        "image_id": instance["ImageId"],
                        "verdict": "fit",
                        "reason": "",
                        "since": "2026-01-01T00:00:00Z",
                        "agent": "0.1.0",
                        "services": {},
                    }
                    ssm.put_parameter(
                        Name=f"/imagebuilder/bench/instances/{instance['InstanceId']}",
                        Value=json.dumps(record),
                        Type="String",
                        Overwrite=True,
                    )
                    known.add(instance["InstanceId"])


def rolled(binaries, place, size):
    """Calls of each look, in order, while a group of so many members is rolled."""
    with Cloud(binaries, place) as cloud, tempfile.TemporaryDirectory(dir=place) as shop:
        ec2, scaling = cloud.client("ec2"), cloud.client("autoscaling")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        second = ec2.copy_image(Name="second", SourceImageId=image, SourceRegion="us-east-1")["ImageId"]
        wait_for("the second image", lambda: ec2.describe_images(ImageIds=[second])["Images"][0]["State"] == "available")
        data = {"ImageId": image, "InstanceType": "t3.micro"}
        template = ec2.create_launch_template(LaunchTemplateName="bench", LaunchTemplateData=data)["LaunchTemplate"]
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="bench",
            LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"},
            MinSize=size,
            MaxSize=size * 2,
            DesiredCapacity=size,
            AvailabilityZones=["us-east-1a"],
        )

        def in_service():
            pages = scaling.get_paginator("describe_auto_scaling_instances").paginate()
            return sum(m["LifecycleState"] == "InService" for page in pages for m in page["AutoScalingInstances"])

        wait_for("the group is in service", lambda: in_service() >= size)
        (Path(shop) / "imagebuilder.toml").write_text(CONFIG)
        done, relay = threading.Event(), Relay(cloud.port)
        writer = threading.Thread(target=agents, args=(cloud, done))
        writer.start()
        try:
            environment = os.environ | {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.server_port}",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": "x",
            }
            roll = subprocess.run(
                [binaries / "imagebuilder", "roll", second, "--accept-unproven"],
                cwd=shop,
                env=environment,
                capture_output=True,
                text=True,
            )
        finally:
            done.set()
            writer.join()
            relay.shutdown()
            relay.server_close()
        if roll.returncode != 0:
            sys.exit(f"bench: roll of {size}: {roll.returncode}\n{roll.stderr[-2000:]}")
    looks, current = [], None
    for name in relay.names:
        if name == "look":
            current = Counter()
            looks.append(current)
        elif current is not None:
            current[name] += 1
    # The first look reads every record, the last one is followed by the proof.
    return looks[1:-1]


def main():
    parser = argparse.ArgumentParser()
    for name in ("binaries", "place"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fleets", type=int, nargs="+", default=(10, 100, 500))
    args = parser.parse_args()
    means = []
    for size in args.fleets:
        looks = rolled(args.binaries, args.place, size)
        each = [sum(look.values()) + 1 for look in looks]
        means.append(sum(each) / len(each))
        names = sum(looks, Counter())
        shown = ", ".join(f"{name} {count / len(looks):.1f}" for name, count in names.most_common())
        row(f"calls of a look at {size} members, mean (most)", f"{means[-1]:.1f} ({max(each)})", shown, True)
    # What changes in one look grows with the batch, a tenth of the fleet, in tens (GetParameters) and hundreds (activities).
    most = means[0] + args.fleets[-1] / 10 / 10 + args.fleets[-1] / 100
    row(f"calls of a look at {args.fleets[-1]} members", f"{means[-1]:.1f}", f"at most {most:.1f}: pages of what changed", means[-1] <= most)
    return 1 if not all(ROWS) else 0


if __name__ == "__main__":
    sys.exit(main())
