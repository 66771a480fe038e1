"""Weighs the agent beside other agents: prometheus-node-exporter and google-guest-agent, from Debian.

`python bench/weight.py --agent target/box/imagebuilder-agent --cache .cache/weight` needs no root and no cloud: a
metadata service and a service to judge are made here, on loopback. Debian's packages are downloaded and unpacked, not
installed. Each program runs by itself, after the one before it has ended.
"""

import argparse
import http.server
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
RESTS = 60  # seconds of rest over which idle CPU is taken


class Host(http.server.BaseHTTPRequestHandler):
    """IMDSv2 for one instance in no group, the parameter store, and a service that is well."""

    protocol_version = "HTTP/1.1"

    def say(self, status, text="", **headers):
        body = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        self.say(200, "token", X_aws_ec2_metadata_token_ttl_seconds="21600")

    def do_GET(self):
        facts = {
            "/latest/meta-data/instance-id": "i-0123456789abcdef0",
            "/latest/meta-data/ami-id": "ami-0123456789abcdef0",
            "/gtg": "well",
            "/version": "1.2.3",
        }
        found = facts.get(self.path)
        self.say(200, found) if found else self.say(404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        if "x-amz-target" in self.headers:
            return self.say(200, '{"Version":1}', content_type="application/x-amz-json-1.1")
        action = re.search(r"Action=(\w+)", body).group(1)
        self.say(200, f"<{action}Response><{action}Result/></{action}Response>", content_type="text/xml")

    def log_message(self, *_):
        pass


def status(pid, name):
    """MB from /proc/<pid>/status."""
    return int(re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1)) * 1024 / 1e6


def cpu(pid):
    """Seconds of processor time, with the children that were waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICKS


def rest(child, settle):
    """(RSS in MB, idle CPU in percent) of a program that has nothing to do."""
    time.sleep(settle)
    begun, spent = time.monotonic(), cpu(child.pid)
    time.sleep(RESTS)
    if child.poll() is not None:
        sys.exit(f"weight: {child.args[0]} ended with {child.returncode}")
    return status(child.pid, "VmRSS"), 100 * (cpu(child.pid) - spent) / (time.monotonic() - begun)


def end(child):
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def weigh_agent(agent, place):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    (place / "agent.toml").write_text(
        f'image = "shop"\n[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[services.orders]\nhealth_url = "{url}/gtg"\nversion_url = "{url}/version"\n'
    )
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "eu-north-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": url,
        "IMAGEBUILDER_AGENT_SETTINGS": str(place / "agent.toml"),
        "IMAGEBUILDER_AGENT_DROP_INS": str(place / "agent.d"),
        "IMAGEBUILDER_AGENT_STATUS_DIR": str(place),
    }
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(place / "notify"))
    notify.settimeout(30)
    ready, own, child = [], [], None
    for turn in range(10):
        begun = time.perf_counter()
        child = subprocess.Popen(
            [agent, "run"],
            env=variables | {"NOTIFY_SOCKET": str(place / "notify")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while b"READY=1" not in notify.recv(4096):
            pass
        ready.append(1000 * (time.perf_counter() - begun))
        own.append(1000 * cpu(child.pid))
        if turn < 9:
            end(child)
            notify.setblocking(False)
            try:
                while notify.recv(4096):
                    pass
            except BlockingIOError:
                notify.settimeout(30)
    def drain():
        while True:
            try:
                notify.recv(4096)
            except TimeoutError:
                pass
            except OSError:
                return
    threading.Thread(target=drain, daemon=True).start()
    rss, idle = rest(child, 30)
    status = json.loads((place / "status.json").read_text())
    end(child)
    notify.close()
    server.shutdown()
    if status["verdict"] != "fit":
        sys.exit(f"weight: the agent's instance was not fit: {status['waiting_for']}")
    return {
        "size": agent.stat().st_size / 1e6,
        "rss": rss,
        "cpu": idle,
        "ready": statistics.median(ready),
        "own": statistics.median(own),
    }


def unpacked(cache, package, program):
    """A program from a Debian package, unpacked below the cache."""
    where = cache / package
    if not (where / program).exists():
        where.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=where, check=True)
        (deb,) = where.glob("*.deb")
        subprocess.run(["dpkg", "-x", deb, where], check=True)
    (deb,) = where.glob("*.deb")
    return where / program, deb.name.split("_")[1]


def weigh(argv, settle=5):
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        rss, idle = rest(child, settle)
    finally:
        end(child)
    return {"size": Path(argv[0]).stat().st_size / 1e6, "rss": rss, "cpu": idle}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as place:
        ours = weigh_agent(args.agent.resolve(), Path(place))
    rows = [("imagebuilder-agent", ours)]
    node, version = unpacked(args.cache.resolve(), "prometheus-node-exporter", "usr/bin/prometheus-node-exporter")
    rows.append((f"prometheus-node-exporter {version}", weigh([node, "--web.listen-address=127.0.0.1:0"])))
    guest, version = unpacked(args.cache.resolve(), "google-guest-agent", "usr/bin/google_guest_agent")
    # It serves Google's machines only and is not run here: only its size is shown.
    rows.append((f"google-guest-agent {version}", {"size": guest.stat().st_size / 1e6}))
    print("| | size | idle RSS | idle CPU | start to READY | of it on the processor |\n| --- | --- | --- | --- | --- | --- |")
    units = [("size", "MB", 2), ("rss", "MB", 1), ("cpu", "%", 3), ("ready", "ms", 0), ("own", "ms", 0)]
    for name, row in rows:
        figures = [f"{row[key]:.{digits}f} {unit}" if key in row else "" for key, unit, digits in units]
        print(f"| {name} | " + " | ".join(figures) + " |")
    kept = ours["size"] <= 6 and ours["rss"] <= 10 and ours["cpu"] < 0.1 and ours["ready"] <= 300
    print("\nwithin 6 MB, 10 MB, 0.1 % and 300 ms" if kept else "\na budget is missed: 6 MB, 10 MB, 0.1 %, 300 ms")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
