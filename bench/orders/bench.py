"""Measures the order service and the stack it replaces, in turns, and prints both with their ratio.

Every figure is from one run on one machine: wrk, the service and the stand-in share it, so requests per second depend
on them as much as on the service. CPU time per request is the service's alone; the targets use it.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
# The same for both: the AWS endpoint, and keys that are not verified.
AWS = {
    "AWS_REGION": "ca-central-1",
    "AWS_DEFAULT_REGION": "ca-central-1",
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_EC2_METADATA_DISABLED": "true",
    # No clients need to learn of the stop.
    "ORDERS_LAME_DUCK_SECONDS": "0",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class StandIn:
    """S3 and CloudWatch that respond at once, or after `delay` ms."""

    def __init__(self, program, delay=0):
        self.child = subprocess.Popen([program, str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.child.stdout.readline())

    def count(self):
        return json.loads(get(self.port, "/-/count")[1])

    def environment(self):
        return AWS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def stop(self):
        self.child.stdin.close()
        self.child.wait()


class Service:
    """One order service under test, with all its processes."""

    def __init__(self, argv, environment, place):
        self.log = (place / "log").open("ab")
        self.port = free_port()
        argv = [str(part).replace("PORT", str(self.port)) for part in argv]
        begun = time.perf_counter()
        self.child = subprocess.Popen(argv, env=os.environ | environment, stdout=self.log, stderr=self.log, cwd=HERE / "seed")
        while not self._ready():
            if self.child.poll() is not None or time.perf_counter() - begun > 60:
                sys.exit(f"bench: {argv[0]} did not start\n{(place / 'log').read_text()[-2000:]}")
            time.sleep(0.001)
        self.start = time.perf_counter() - begun

    def _ready(self):
        try:
            return get(self.port, "/gtg")[0] == 200
        except OSError:
            return False

    def pids(self):
        pids = [self.child.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pids

    def cpu(self):
        """CPU seconds of all its processes, user and kernel."""
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory(self):
        """(sum of RSS, sum of PSS) of all its processes, in MiB."""
        sums = {"Rss:": 0, "Pss:": 0}
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if (name := line.split()[0]) in sums:
                    sums[name] += int(line.split()[1])
        return sums["Rss:"] / 1024, sums["Pss:"] / 1024

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()
        self.log.close()


def wrk(port, connections, seconds, path=None):
    """One run: the result that orders.lua prints."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", HERE / "orders.lua"]
    argv += [f"http://127.0.0.1:{port}", "--"] + ([path] if path else [])
    out = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout.decode()
    result = json.loads(out.splitlines()[-1])
    if result["failed"] or not result["requests"]:
        sys.exit(f"bench: {result['failed']} requests failed, {result['requests']} did not\n{out}")
    return result


class Bench:
    def __init__(self, args):
        self.args = args
        self.place = Path(tempfile.mkdtemp(prefix="bench-orders-", dir=args.place))
        self.rows, self.missed = [], 0

    # --- the services -----------------------------------------------------------------------------------
    def place_of(self, name):
        place = self.place / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def ours(self, stand_in=None):
        place = self.place_of("ours")
        # As in its unit.
        unit = {"MALLOC_ARENA_MAX": "1"}
        argv = [self.args.orders, "--listen", "127.0.0.1:PORT"]
        if stand_in:
            argv += ["--store", "s3://shop/orders", "--metrics-namespace", "FlowerShop"]
            return Service(argv, stand_in.environment() | unit, place)
        return Service(argv + ["--store", f"file://{place}/orders"], AWS | unit, place)

    def theirs(self, stand_in=None):
        place = self.place_of("theirs")
        gunicorn = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", "127.0.0.1:PORT", "--log-level", "warning", "app:app"]
        more = stand_in.environment() if stand_in else AWS | {"SEED_FOLDER": str(place)}
        return Service(gunicorn, more, place)

    # --- the measurements -------------------------------------------------------------------------------
    def measure(self, service, connections, path, beside=None):
        """One run after a short warm-up: wrk's result with CPU per request and memory put in; with
        `beside`, that path is asked for by one connection meanwhile."""
        seconds = self.args.seconds
        if beside:
            # The seed responds after seconds here, and a percentile needs more than one response.
            seconds *= 3
        wrk(service.port, min(connections, 16), 1, path)
        aside = {}
        if beside:
            asking = threading.Thread(target=lambda: aside.update(wrk(service.port, 1, seconds, beside)))
            asking.start()
        memory, ended = [], threading.Event()

        def poll():
            while not ended.wait(0.25):
                memory.append(service.memory())

        # During the run: at its end connections are closed and some of their memory is freed.
        polling = threading.Thread(target=poll, daemon=True)
        polling.start()
        before = service.cpu()
        result = wrk(service.port, connections, seconds, path)
        ended.set()
        polling.join()
        if beside:
            asking.join()
        result["cpu"] = (service.cpu() - before) / (result["requests"] + aside.get("requests", 0)) * 1e3
        result["rate"] = result["requests"] / result["seconds"]
        result["rss"], result["pss"] = max([*memory, service.memory()])
        result["beside"] = aside.get("p99")
        return result

    def turns(self, what, connections, path=None, delay=None, beside=None):
        """A/B in turns; every run starts a new service, so that no turn inherits the memory of the last one."""
        runs = {"theirs": [], "ours": []}
        for turn in range(self.args.turns):
            for who in ("theirs", "ours"):
                stand_in = None if delay is None else StandIn(self.args.stand_in, delay)
                service = getattr(self, who)(stand_in)
                try:
                    run = self.measure(service, connections, path, beside)
                finally:
                    service.stop()
                run["start"] = service.start
                if stand_in:
                    run |= stand_in.count()
                    stand_in.stop()
                runs[who].append(run)
                print(f"  {what}, {connections} connections, turn {turn}: {who} {run['rate']:.0f}/s, "
                      f"{run['cpu'] * 1e3:.0f} µs CPU, {run['rss']:.0f} MiB", file=sys.stderr, flush=True)
        medians = {
            who: {name: statistics.median(run[name] for run in of) for name in of[0] if of[0][name] is not None}
            for who, of in runs.items()
        }
        for who in runs:
            m = medians[who]
            self.rows.append((
                f"{what}, {connections} connections" if who == "theirs" else "", who, f"{m['rate']:.0f}", f"{m['cpu'] * 1e3:.0f}",
                f"{m['p50']:.1f}", f"{m['p99']:.1f}", f"{m['rss']:.0f}", f"{m['beside']:.1f}" if beside else "",
                f"{m['objects'] / m['puts']:.1%}" if delay is not None else "",
            ))
        return medians["theirs"], medians["ours"]

    def target(self, what, figure, least=None, most=None, unit=""):
        good = figure >= least if least is not None else figure <= most
        self.missed += not good
        wanted = f"≥ {least}" if least is not None else f"≤ {most}"
        print(f"{'  ' if good else '! '}{what:<78} {figure:8.1f}{unit}   {wanted}{unit}", flush=True)

    def table(self):
        print("\n| | | requests/s | CPU µs/request | p50 ms | p99 ms | RSS MiB | /gtg p99 ms | orders kept |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for row in self.rows:
            print("| " + " | ".join(row) + " |")

    def run(self):
        chosen = self.args.only or ["gtg", "files", "s3", "slow", "start"]
        ratios, ours_rss = [], []
        if "gtg" in chosen:
            self.turns("GET /gtg", 16, path="/gtg")
        if "files" in chosen:
            for connections in (16, 64):
                theirs, ours = self.turns("POST /order to files", connections)
                ratios.append((f"files, {connections} connections: requests per CPU second", theirs["cpu"] / ours["cpu"], 8))
                ours_rss.append(ours["rss"])
        if "s3" in chosen:
            for connections in (16, 64):
                theirs, ours = self.turns("POST /order to S3", connections, delay=0)
                ratios.append((f"instant S3, {connections} connections: requests per CPU second", theirs["cpu"] / ours["cpu"], 10))
                ours_rss.append(ours["rss"])
        if "slow" in chosen:
            theirs, slow = self.turns("POST /order to S3, 30 ms a put", 256, delay=30, beside="/gtg")
            ratios.append(("S3 at 30 ms, 256 connections: requests per second", slow["rate"] / theirs["rate"], 40))
            ours_rss.append(slow["rss"])
        self.table()
        print()
        for what, ratio, least in ratios:
            self.target(what, ratio, least=least, unit=" ×")
        if "slow" in chosen:
            self.target("/gtg meanwhile, p99", slow["beside"], most=10, unit=" ms")
        if ours_rss:
            self.target("RSS under load", max(ours_rss), most=20, unit=" MiB")
        if "start" in chosen:
            starts = {"theirs": [], "ours": []}
            for _ in range(7):
                for who, seen in starts.items():
                    service = getattr(self, who)()
                    service.stop()
                    seen.append(service.start * 1e3)
            self.target(f"start to first 200 (theirs: {statistics.median(starts['theirs']):.0f} ms)",
                        statistics.median(starts["ours"]), most=50, unit=" ms")
        return 1 if self.missed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=Path, required=True, help="the binary under test")
    parser.add_argument("--stand-in", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=5, help="seconds per run [default: 5]")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--place", help="folder on the disk to measure [default: the temporary folder]")
    parser.add_argument("--only", action="append", choices=["gtg", "files", "s3", "slow", "start"])
    bench = Bench(parser.parse_args())
    try:
        return bench.run()
    finally:
        shutil.rmtree(bench.place)


if __name__ == "__main__":
    sys.exit(main())
