"""Measures static binaries beside the same sources built for this host's glibc, in turns: `make bench-static`.

`python bench/static.py --static FILE --dynamic FILE --load target/box/orders-load` needs neither root nor a cloud, and takes two
builds of `orders`. `--start FILE` times one more program's `--version` beside /bin/true. Processor time is read from
/proc/PID/task/*/schedstat, in nanoseconds; requests per second are not compared, since load and service share the machine.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

STARTS = 200
# What the service needs of a unit; no client has to learn of the stop.
ENVIRONMENT = {"ORDERS_LAME_DUCK_SECONDS": "0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(program):
    """ms from exec to exit of `--version`."""
    begun = time.perf_counter()
    subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - begun)


class Service:
    def __init__(self, program, place):
        self.port = free_port()
        self.log = (place / "log").open("ab")
        begun = time.perf_counter()
        self.child = subprocess.Popen(
            [program, "--listen", f"127.0.0.1:{self.port}", "--store", f"file://{place}/orders"],
            env=os.environ | ENVIRONMENT, stdout=self.log, stderr=self.log)
        while not self.ready():
            if self.child.poll() is not None or time.perf_counter() - begun > 60:
                sys.exit(f"bench: {program} did not start\n{(place / 'log').read_text()[-2000:]}")
            time.sleep(0.0005)
        self.start = 1000 * (time.perf_counter() - begun)

    def ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/gtg")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def cpu(self):
        """Seconds of processor time; threads that ended are not in it, and the runtime's stay."""
        tasks = Path(f"/proc/{self.child.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def rss(self):
        for line in Path(f"/proc/{self.child.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self):
        self.child.terminate()
        self.child.wait()
        self.log.close()


def reads(port, seconds, connections):
    """GET /gtg on connections that are kept: how many were answered."""
    answered = [0] * connections
    until = time.monotonic() + seconds

    def ask(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.monotonic() < until:
            connection.request("GET", "/gtg")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                sys.exit(f"bench: /gtg answered {response.status}")
            answered[number] += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered)


def orders(load, port, seconds, place):
    """POST /order at a fixed rate: how many were placed."""
    out = subprocess.run(
        [load, "run", "--url", f"http://127.0.0.1:{port}", "--rate", "400", "--duration", f"{seconds}s",
         "--connections", "16", "--ledger", place / "ledger", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    return json.loads(out)["placed"]


def turn(program, args):
    with tempfile.TemporaryDirectory(prefix="bench-static-") as folder:
        place = Path(folder)
        service = Service(program, place)
        try:
            figures = {"start": service.start, "idle": service.rss()}
            # Connections, caches and the allocator's first pages.
            reads(service.port, 0.5, 4)
            before = service.cpu()
            figures["gtg"] = reads(service.port, args.seconds, 4) / (service.cpu() - before)
            before = service.cpu()
            figures["order"] = orders(args.load, service.port, args.seconds, place) / (service.cpu() - before)
            figures["busy"] = service.rss()
        finally:
            service.stop()
        return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--static", type=Path, required=True)
    parser.add_argument("--dynamic", type=Path, required=True)
    parser.add_argument("--load", type=Path, required=True, help="the program orders-load")
    parser.add_argument("--start", type=Path, action="append", default=[], help="one more program whose start is timed")
    parser.add_argument("--seconds", type=int, default=5, help="seconds per load [default: 5]")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()

    runs = {"static": [], "dynamic": []}
    for number in range(args.turns):
        for kind, seen in runs.items():
            seen.append(turn(getattr(args, kind), args))
            print(f"  turn {number}, {kind}: {seen[-1]['gtg']:.0f} reads and {seen[-1]['order']:.0f} orders per CPU second",
                  file=sys.stderr, flush=True)
    medians = {kind: {name: statistics.median(run[name] for run in seen) for name in seen[0]} for kind, seen in runs.items()}
    programs = {"static": args.static, "dynamic": args.dynamic}
    versions = {kind: [] for kind in programs}
    for _ in range(STARTS):
        for kind, program in programs.items():
            versions[kind].append(started(program))
    print("\n| | size MB | `--version` ms | start to first 200, ms | idle RSS MiB | RSS under load MiB | reads per CPU second | orders per CPU second |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, program in programs.items():
        m = medians[kind]
        print(f"| {kind} | {program.stat().st_size / 1e6:.2f} | {statistics.median(versions[kind]):.2f} | {m['start']:.1f} | "
              f"{m['idle']:.1f} | {m['busy']:.1f} | {m['gtg']:.0f} | {m['order']:.0f} |")
    for program in [*args.start, Path("/bin/true")] if args.start else []:
        print(f"{program} --version: {statistics.median(started(program) for _ in range(STARTS)):.2f} ms")
    missed = 0
    for what in ("gtg", "order"):
        ratio = medians["static"][what] / medians["dynamic"][what]
        missed += ratio < 0.95
        print(f"{'! ' if ratio < 0.95 else '  '}{what}: requests per CPU second, static ÷ dynamic: {ratio:.2f} ×   ≥ 0.95 ×")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
