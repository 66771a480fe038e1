"""Measures normal orders while 520 clients send their bodies at a byte a second, compared with the same without them.

Run by `bench/run.sh` and `bench/orders/run.sh`. The normal orders come at a rate far below the service's capacity
(`orders-load run`, open loop); the ratio is of those that are placed. Prints it and exits 1 if it is below 0.95.
"""

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TRICKLING = 520
LEAST = 0.95
HEAD = (
    b"POST /order HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
    b"Content-Length: 20000\r\n\r\n"
)


class Trickle:
    """Clients that each send a head and then a byte a second; a closed one reconnects at once."""

    def __init__(self, port, clients):
        self.port, self.clients = port, clients
        self.ended = threading.Event()
        self.open = 0
        self.answers = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while self.thread.is_alive() and self.open < self.clients:
            time.sleep(0.01)
        if not self.thread.is_alive():
            sys.exit("trickle: the clients could not connect")
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def _connect(self, chooser, due):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(HEAD)
        connection.setblocking(False)
        chooser.register(connection, selectors.EVENT_READ)
        due[connection] = time.monotonic() + 1
        self.open += 1

    def _run(self):
        chooser, due = selectors.DefaultSelector(), {}
        for _ in range(self.clients):
            self._connect(chooser, due)
        while not self.ended.is_set():
            closed = set()
            for key, _ in chooser.select(timeout=0.05):
                try:
                    data = key.fileobj.recv(65536)
                except OSError:
                    data = b""
                self.answers += bool(data)
                closed.add(key.fileobj)
            now = time.monotonic()
            for connection, at in list(due.items()):
                if at <= now and connection not in closed:
                    due[connection] = now + 1
                    try:
                        connection.send(b" ")
                    except OSError:
                        closed.add(connection)
            for connection in closed:
                chooser.unregister(connection)
                del due[connection]
                connection.close()
                self.open -= 1
                self._connect(chooser, due)
        for connection in due:
            connection.close()


def honest(load, port, rate, seconds, place):
    """The counts of `orders-load run`."""
    argv = [load, "run", "--url", f"http://127.0.0.1:{port}", "--rate", str(rate), "--duration", f"{seconds}s",
            "--ledger", place / "ledger", "--timeout", "20s", "--json"]
    out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return json.loads(out)


def listening(child):
    """The port, from the log."""
    for line in child.stderr:
        line = json.loads(line)
        if line.get("message") == "listening" or "address" in line:
            return int(line["address"].rpartition(":")[2])
    sys.exit("trickle: orders did not start")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=Path, required=True, help="the binary under test")
    parser.add_argument("--load", type=Path, required=True, help="the load generator, orders-load")
    parser.add_argument("--rate", type=int, default=100, help="normal orders per second [default: 100]")
    parser.add_argument("--seconds", type=int, default=10, help="seconds per run [default: 10]")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        child = subprocess.Popen(
            [args.orders, "--listen", "127.0.0.1:0", "--store", f"file://{place}/shop"],
            stderr=subprocess.PIPE, env=os.environ | {"AWS_EC2_METADATA_DISABLED": "true", "ORDERS_LAME_DUCK_SECONDS": "0"},
        )
        try:
            port = listening(child)
            # The log must be read, or the service blocks when the pipe is full.
            threading.Thread(target=lambda: child.stderr.read(), daemon=True).start()
            without, under, answers = [], [], 0
            for _ in range(args.turns):
                without.append(honest(args.load, port, args.rate, args.seconds, place))
                with Trickle(port, TRICKLING) as trickle:
                    under.append(honest(args.load, port, args.rate, args.seconds, place))
                    answers += trickle.answers
        finally:
            child.terminate()
            child.wait()
    median = lambda runs: statistics.median(run["placed"] for run in runs)
    if not median(without):
        sys.exit("trickle: no order was placed even without them")
    ratio = median(under) / median(without)
    good = ratio >= LEAST
    failed = sum(run["failed"] for run in under)
    print(f"{'  ' if good else '! '}{f'normal orders under {TRICKLING} trickling bodies':<62} {f'{ratio:.2f} ×':>18}   "
          f"≥ {LEAST} × without ({failed} failed, {answers} trickling were answered)", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
