"""Measures the rehearsal cloud: whether the cost of a call depends on what the cloud holds; prints ratios of one run.

Run by `bench/run.sh`. Each cloud is one of puppets in a folder of its own, on the disk that the folder's parent is on.
"""

import argparse
import json
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCOPE = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"
ROWS = []


def row(what, figure, target, good):
    ROWS.append(good)
    print(f"{'  ' if good else '! '}{what:<62} {figure:>18}   {target}", flush=True)


def ssm(action, body):
    """The bytes of a Parameter Store request."""
    body = json.dumps(body).encode()
    head = (
        f"POST / HTTP/1.1\r\nHost: cloud\r\nAuthorization: {SCOPE.format('ssm')}\r\n"
        f"X-Amz-Target: AmazonSSM.{action}\r\nContent-Type: application/x-amz-json-1.1\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def bare(_turn):
    """The bytes of a request that the stand-in of S3 answers at once."""
    return b"GET /-/count HTTP/1.1\r\nHost: cloud\r\n\r\n"


def get(turn):
    return ssm("GetParameter", {"Name": f"/bench/{turn % 10}"})


def put(turn):
    return ssm("PutParameter", {"Name": f"/bench/{turn % 10}", "Value": f"v{turn}", "Type": "String", "Overwrite": True})


def rate(port, callers, seconds, request):
    """Calls a second of so many callers on one connection each; every answer must be a 200."""
    chooser = selectors.DefaultSelector()
    for _ in range(callers):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chooser.register(connection, selectors.EVENT_READ, bytearray())
    turn = 0
    begun = time.perf_counter()
    for key in list(chooser.get_map().values()):
        key.fileobj.sendall(request(turn))
        turn += 1
    answers = 0
    while time.perf_counter() - begun < seconds:
        for key, _ in chooser.select(1):
            key.data.extend(key.fileobj.recv(65536))
            head, end, body = key.data.partition(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not end or len(body) < int(length[0].split(b":")[1]):
                continue
            if not head.startswith(b"HTTP/1.1 200"):
                sys.exit(f"bench: {bytes(key.data[:400])}")
            key.data.clear()
            answers += 1
            key.fileobj.sendall(request(turn))
            turn += 1
    took = time.perf_counter() - begun
    for key in list(chooser.get_map().values()):
        key.fileobj.close()
    return answers / took


def syncs(place, seconds):
    """Bare writes of a page with an fdatasync each, one after the other, a second."""
    path = place / "sync"
    with open(path, "wb", buffering=0) as file:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            count += 1
        took = time.perf_counter() - begun
    path.unlink()
    return count / took


class Cloud:
    """A cloud of puppets that are but the word that they run."""

    def __init__(self, binaries, place):
        self.program = binaries / "rehearsal"
        self.folder = Path(tempfile.mkdtemp(dir=place))
        (self.folder / "base.raw").write_bytes(bytes(1 << 20))
        self.run("up", "--port", "0", "--guests", "puppets", "--base-image", self.folder / "base.raw", "--detach")
        note = json.loads((self.folder / "cloud" / "daemon.json").read_text())
        self.port, self.pid = note["port"], note["pid"]

    def run(self, verb, *arguments):
        subprocess.run(
            [self.program, verb, self.folder / "cloud", *arguments], check=True, stdout=subprocess.DEVNULL
        )

    def processor(self):
        """Seconds of processor time that the daemon has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def client(self, service):
        import boto3

        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("down")
        shutil.rmtree(self.folder)


def calls(binaries, place, stand_in):
    """What a read and a write cost at 10, 1,000 and 10,000 parameters, in turns."""
    sizes = (10, 1_000, 10_000)
    clouds = [Cloud(binaries, place) for _ in sizes]
    server = subprocess.Popen([stand_in], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        bare_port = int(server.stdout.readline())
        for size, cloud in zip(sizes, clouds):
            client = cloud.client("ssm")
            for number in range(size):
                client.put_parameter(Name=f"/bench/{number}", Value="v", Type="String")
        reads, writes, bares, fsyncs = [[], [], []], [[], [], []], [], []
        for _ in range(5):
            bares.append(rate(bare_port, 16, 1, bare))
            fsyncs.append(syncs(place, 1))
            for index, cloud in enumerate(clouds):
                reads[index].append(rate(cloud.port, 16, 1, get))
                writes[index].append(rate(cloud.port, 16, 1, put))
        for what, rates in (("GetParameter", reads), ("PutParameter", writes)):
            rates = [statistics.median(rate) for rate in rates]
            ratio = rates[2] / rates[0]
            shown = " / ".join(f"{rate:.0f}" for rate in rates)
            row(f"{what} a second at 10 / 1,000 / 10,000 parameters", shown, f"last ≥ 0.8 × first: {ratio:.2f}", ratio >= 0.8)
        middle, plain = statistics.median(reads[1]), statistics.median(bares)
        row("GetParameter / bare HTTP, 16 callers", f"{middle / plain:.2f}", f"bare: {plain:.0f}/s", True)
        middle, plain = statistics.median(writes[1]), statistics.median(fsyncs)
        row("PutParameter / bare fsync, 16 callers", f"{middle / plain:.2f}", f"at least 0.5; bare: {plain:.0f}/s", middle >= plain / 2)
    finally:
        server.stdin.close()
        server.wait()
        for cloud in clouds:
            cloud.__exit__()


def wait_for(what, check, seconds=3600):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            sys.exit(f"bench: not within {seconds} s: {what}")
        time.sleep(2)


def fleet(binaries, place, size):
    """Seconds of the daemon's processor time for founding and rolling a group of so many puppets."""
    with Cloud(binaries, place) as cloud:
        ec2, scaling = cloud.client("ec2"), cloud.client("autoscaling")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        data = {"ImageId": image, "InstanceType": "t3.micro"}
        template = ec2.create_launch_template(LaunchTemplateName="bench", LaunchTemplateData=data)
        template = template["LaunchTemplate"]["LaunchTemplateId"]
        begun = cloud.processor()
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="bench",
            LaunchTemplate={"LaunchTemplateId": template, "Version": "1"},
            MinSize=size,
            MaxSize=size * 2,
            DesiredCapacity=size,
            DefaultInstanceWarmup=1,
            AvailabilityZones=["us-east-1a"],
        )

        def in_service():
            pages = scaling.get_paginator("describe_auto_scaling_instances").paginate()
            return sum(m["LifecycleState"] == "InService" for page in pages for m in page["AutoScalingInstances"])

        wait_for("the group is in service", lambda: in_service() >= size)
        founded = cloud.processor()
        # The same image in a second version: every instance is replaced, a tenth of them at a time.
        ec2.create_launch_template_version(LaunchTemplateId=template, SourceVersion="1", LaunchTemplateData=data)
        scaling.start_instance_refresh(
            AutoScalingGroupName="bench",
            DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateId": template, "Version": "2"}},
            Preferences={"MinHealthyPercentage": 90, "MaxHealthyPercentage": 100, "SkipMatching": False},
        )

        def status():
            return scaling.describe_instance_refreshes(AutoScalingGroupName="bench")["InstanceRefreshes"][0]["Status"]

        wait_for("the refresh is over", lambda: status() not in ("Pending", "InProgress"))
        if status() != "Successful":
            sys.exit(f"bench: the refresh is {status()}")
        return founded - begun, cloud.processor() - founded


def fleets(binaries, place, sizes):
    each = []
    for size in sizes:
        founding, rolling = fleet(binaries, place, size)
        each.append((founding + rolling) / size)
        row(
            f"daemon CPU, founding and rolling {size} puppets",
            f"{founding:.1f} + {rolling:.1f} s",
            f"{each[-1] * 1000:.0f} ms an instance",
            True,
        )
    ratio = each[-1] / each[0]
    row(f"CPU an instance at {sizes[-1]} / at {sizes[0]}", f"{ratio:.2f}", "at most 2", ratio <= 2)


def main():
    parser = argparse.ArgumentParser()
    for name in ("binaries", "place", "stand-in"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fleets", type=int, nargs=2, default=(100, 1000))
    args = parser.parse_args()
    calls(args.binaries, args.place, args.stand_in)
    fleets(args.binaries, args.place, args.fleets)
    return 1 if not all(ROWS) else 0


if __name__ == "__main__":
    sys.exit(main())
