#!/usr/bin/env python3
"""Stand-in for QEMU on a host whose KVM fails: runs the real QEMU under emulation, and simulates KVM's failures.

Hosts with such a KVM are rare, and none can be made to fail on demand. Machine, firmware, QMP and console are the real QEMU's;
only the simulated failures are not. A file in the folder of this script selects the failure:

  probe-fails   a guest under KVM hangs at once with an internal error, as under a para-virtual KVM
  kvm-fails     a running guest under KVM hangs with an internal error
  disk-full     a running guest hangs because the host's disk is full
  panic         a running guest's kernel reports a panic
"""
import json
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REAL = os.environ["REAL_QEMU"]
POLL = 0.05


def asked(name):
    return os.path.exists(os.path.join(HERE, name))


arguments = sys.argv[1:]
if "--version" in arguments:
    os.execv(REAL, [REAL, *arguments])
under_kvm = "kvm" in arguments
if under_kvm:
    arguments[arguments.index("kvm")] = "tcg,tb-size=128"
    arguments[arguments.index("host")] = "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt"
is_guest = "-name" in arguments

# This process becomes QEMU, and a child of it relays between QEMU and the parent: so the process that is
# watched, killed and reaped is the machine itself.
to_qemu, from_qemu = os.pipe(), os.pipe()
if os.fork():
    os.dup2(to_qemu[0], 0)
    os.dup2(from_qemu[1], 1)
    os.closerange(3, 64)
    os.execv(REAL, [REAL, *arguments])
os.close(to_qemu[0])
os.close(from_qemu[1])
qemu_stdin, qemu_stdout = os.fdopen(to_qemu[1], "wb"), os.fdopen(from_qemu[0], "rb")
state = None  # The simulated answer to query-status.
lock = threading.Lock()


def say(message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def command(text):
    with lock:
        qemu_stdin.write(text.encode() + b"\n")
        qemu_stdin.flush()


def answers():
    for line in qemu_stdout:
        message = json.loads(line)
        if message.get("id") == "status" and state is not None:
            message["return"] |= {"status": state, "running": False}
        say(message)


def commands():
    for line in sys.stdin:
        command(line.strip())


def stand_still(why):
    global state
    state = why
    command('{"execute": "stop", "id": "stand-in"}')


def fail():
    print("KVM internal error. Suberror: 1\nextra data[0]: 0x0000000000000001\nemulation failure", file=sys.stderr, flush=True)
    stand_still("internal-error")


def play():
    global state
    done = set()
    while True:
        time.sleep(POLL)
        for name in ("probe-fails", "kvm-fails", "disk-full", "panic"):
            if name in done or not asked(name):
                continue
            if name == "probe-fails" and under_kvm or name == "kvm-fails" and under_kvm and is_guest:
                fail()
            elif name == "disk-full" and is_guest:
                os.remove(os.path.join(HERE, name))
                full = {"device": "root", "operation": "write", "action": "stop", "nospace": True}
                say({"event": "BLOCK_IO_ERROR", "data": full | {"reason": "No space left on device"}})
                stand_still("io-error")
            elif name == "panic" and is_guest:
                say({"event": "GUEST_PANICKED", "data": {"action": "run"}})
            done.add(name)


threading.Thread(target=commands, daemon=True).start()
threading.Thread(target=play, daemon=True).start()
answers()
