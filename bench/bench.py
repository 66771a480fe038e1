"""Measures imagebuilder and its company; prints ratios against what a user would pick instead.

Runs inside a rehearsal cloud (`bench/run.sh`). Every figure and what it is compared with come from one run on one
machine; absolute times say something about that machine only.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROWS = []


def row(what, figure, target, good):
    ROWS.append((what, figure, target, good))
    print(f"{'  ' if good else '! '}{what:<70} {figure:>18}   {target}", flush=True)


def run(argv, **more):
    """(seconds, peak KiB, stdout) of a command; a failure ends the bench with the command's own words."""
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    begun = time.perf_counter()
    child = subprocess.Popen(argv, stdout=out, stderr=err, **more)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        err.seek(0)
        sys.exit(f"bench: {' '.join(map(str, argv))} ended with {child.returncode}\n{err.read().decode()}")
    out.seek(0)
    return took, usage.ru_maxrss, out.read().decode()


def alone(argv, **more):
    """(seconds, peak KiB) of a command without the programs it runs: what wait4 returns is the largest of them all."""
    peaks, begun = [0], time.perf_counter()
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, **more)
    while child.poll() is None:
        try:
            peaks.append(field(child.pid, "VmHWM"))
        except (OSError, AttributeError):  # it has ended meanwhile
            pass
        time.sleep(0.1)
    if child.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, argv))} ended with {child.returncode}")
    return time.perf_counter() - begun, max(peaks)


def field(pid, name):
    """A figure in KiB from /proc/<pid>/status."""
    return int(re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1))


def steps(run_folder):
    """Seconds per step of a run, from its own events."""
    took = {}
    for line in (run_folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "done":
            took[event["step"]] = event["seconds"]
    return took


def newest_run(shop):
    return max((shop / ".imagebuilder" / "runs").iterdir(), key=lambda path: path.stat().st_mtime)


def bare_packer(shop, done):
    """`packer build` of the very template the bake rendered, with a key pair of its own."""
    import boto3

    ec2 = boto3.client("ec2")
    template = (done / "image.pkr.hcl").read_text()
    name = re.search(r'ssh_keypair_name\s*=\s*"([^"]+)"', template).group(1)
    key = done / re.search(r'ssh_private_key_file\s*=\s*"([^"]+)"', template).group(1)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    ec2.import_key_pair(KeyName=name, PublicKeyMaterial=key.with_name(key.name + ".pub").read_bytes())
    # Only the name differs: an AMI name can be used once.
    (done / "bare.pkr.hcl").write_text(re.sub(r'(ami_name\s*=\s*"[^"]+)"', r'\1-bare"', template))
    took, peak, _ = run(["packer", "build", "-color=false", "bare.pkr.hcl"], cwd=done)
    ec2.delete_key_pair(KeyName=name)
    return took, peak


def bakes(project, layers, changed):
    """Bakes twice, each beside Packer alone in turns; (peak KiB of imagebuilder, of Packer)."""
    overheads, ours, bare = [], [], []
    for turn in range(2):  # A/B, interleaved
        changed.write_text(changed.read_text() + f"# turn {turn}\n")
        total, peak = alone(["imagebuilder", *layers, "bake"], cwd=project)
        done = newest_run(project)
        took = steps(done)
        # The gate, and the end of its instance: the sweep waits for that. Packer has neither.
        gate = took["gate"] + took["sweep"]
        outside = total - gate
        theirs, packer_peak = bare_packer(project, done)
        ours.append(outside)
        bare.append(theirs)
        overheads.append((outside - took["build"]) / took["build"])
        print(f"  turn {turn}: bake {total:.1f} s (gate and sweep {gate:.1f}, packer {took['build']:.1f}), bare packer {theirs:.1f} s")
    ratio = statistics.median(overheads)
    row(f"{project.name}: bake beside the packer build inside it, gate apart", f"+{ratio * 100:.1f} %", "at most +3 %", ratio <= 0.03)
    ratio = statistics.median(ours) / statistics.median(bare)
    what = f"{project.name}: bake without gate / bare packer build of its template"
    row(what, f"{ratio:.3f}", "no target: guests' boots differ by a tenth", True)
    return peak, packer_peak


def beside_the_bakes(shop, cloud, peak, packer_peak):
    row("peak memory, imagebuilder bake", f"{peak / 1024:.0f} MiB", f"packer: {packer_peak / 1024:.0f} MiB", peak < packer_peak)
    again = statistics.median(run(["imagebuilder", "bake"], cwd=shop)[0] for _ in range(5))
    row("unchanged bake", f"{again * 1000:.0f} ms", "under 1 s", again < 1)
    pid = json.loads(run(["rehearsal", "status", cloud, "--json"])[2])["pid"]
    row("peak memory, rehearsal daemon (guests apart)", f"{field(pid, 'VmHWM') / 1024:.0f} MiB", "", True)


def render(shop):
    """Most of a render is reading and hashing the payload, so it is compared with that, in turns."""
    payload = sorted(path.relative_to(shop) for path in (shop / "payload").rglob("*") if path.is_file())
    ours, theirs = [], []
    for _ in range(20):
        ours.append(run(["imagebuilder", "render"], cwd=shop)[0])
        theirs.append(run(["sha256sum", *payload], cwd=shop)[0])
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    row(f"render ({ours * 1000:.1f} ms) / sha256sum of its payload", f"{ours / theirs:.2f}", "at most 0.5", ours <= theirs / 2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except OSError:
        return False


def services(box):
    for name in ("imagebuilder-agent", "orders"):
        size = (box / name).stat().st_size
        row(f"size, {name}", f"{size / 1e6:.1f} MB", "node_exporter: 13.7 MB", size < 13.7e6)
    with tempfile.TemporaryDirectory() as place:
        port = free_port()
        begun = time.perf_counter()
        child = subprocess.Popen(
            [box / "orders", "--listen", f"127.0.0.1:{port}", "--store", f"file://{place}", "--lame-duck-seconds", "0"],
            stderr=subprocess.DEVNULL,
        )
        try:
            while not answers(f"http://127.0.0.1:{port}/gtg"):
                if child.poll() is not None or time.perf_counter() - begun > 10:
                    sys.exit("bench: orders did not start")
            row("orders: start to first 200 on /gtg", f"{(time.perf_counter() - begun) * 1000:.0f} ms", "gunicorn: 140 ms", True)
            row("orders: idle RSS", f"{field(child.pid, 'VmRSS') / 1024:.1f} MiB", "gunicorn, 4 workers: 141 MiB", True)
        finally:
            child.terminate()
            child.wait()


def main():
    parser = argparse.ArgumentParser()
    for name in ("shop", "flask", "cloud", "box"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    render(args.shop)
    services(args.box)
    beside_the_bakes(args.shop, args.cloud, *bakes(args.shop, [], args.shop / "payload" / "orders.toml"))
    bakes(args.flask, ["-c", "imagebuilder.toml", "-c", "rehearsal.toml"], args.flask / "app" / "app.py")
    missed = sum(not good for *_, good in ROWS)
    print(f"\n{len(ROWS) - missed} of {len(ROWS)} figures within their targets")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
