#!/usr/bin/env python3
"""Prints user data with which a guest of a rehearsal takes packages from where this host takes them.

guest-packages.py >packages.sh, and `user_data = "packages.sh"` in [bake]. It has what the apt and pip of this host are configured
with: proxies, index, and certificates that Debian does not bring. The sources of apt are those that the base image was built from.
On the guest these are files below /run, mounted over empty ones until it shuts down: no image contains them. A host without such
settings gives a script that does nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# EC2's limit.
LIMIT = 16 * 1024
DEBIANS_CERTIFICATES = Path("/usr/share/ca-certificates")
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout")
APT_KEYS = re.compile(
    r"Acquire::(?:(?:https?)::(?:(?:Proxy|Verify-Peer|Verify-Host|Timeout)(?:::[^ ]+)?)|Retries|Check-Date|Check-Valid-Until)$"
)
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s+(.+?)\s+-----END CERTIFICATE-----", re.DOTALL)


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
    except FileNotFoundError:
        return ""


def pip_settings():
    """What `pip config list` has, whatever the section; the environment's come last and count."""
    found, environments = {}, {}
    for line in output("python3", "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        section, _, key = key.rpartition(".")
        (environments if section == ":env:" else found)[key] = value.strip().strip("'\"").replace("\\n", " ")
    return found | environments


def apt_settings():
    """What `apt-config dump` has: key and value."""
    lines = re.findall(r'^(\S+) "(.*)";$', output("apt-config", "dump"), re.MULTILINE)
    return dict(lines)


def certificates(paths):
    """The certificates of these files: body without line breaks, to its text."""
    found = {}
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for match in CERTIFICATE.finditer(text):
            found["".join(match[1].split())] = match[0]
    return found


def for_guest(value):
    """An address of this host's loopback, as guests see it."""
    return re.sub(r"(//(?:[^/@]*@)?)(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/]|$)", r"\g<1>169.254.0.2", value)


pip, apt = pip_settings(), apt_settings()
environment = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY") if os.environ.get(name)}
http_proxy = environment.get("http_proxy")
https_proxy = environment.get("https_proxy", environment.get("HTTPS_PROXY"))

endpoint = os.environ.get("AWS_ENDPOINT_URL", "").partition("//")[2].rstrip("/")
if endpoint and https_proxy and https_proxy.rstrip("/").endswith(endpoint):
    sys.exit(
        "guest-packages: HTTPS_PROXY is a rehearsal cloud, not this host's own proxy\n"
        "hint: run this outside `rehearsal exec`"
    )

pip_lines = {key: pip[key] for key in PIP_KEYS if pip.get(key)}
if https_proxy or http_proxy:
    pip_lines.setdefault("proxy", https_proxy or http_proxy)
apt_lines = {key: value for key, value in apt.items() if APT_KEYS.match(key)}
for scheme, proxy in (("http", http_proxy), ("https", https_proxy)):
    if proxy:
        apt_lines.setdefault(f"Acquire::{scheme}::Proxy", proxy)

bundles = [pip.get("cert"), apt.get("Acquire::https::CAInfo"), "/etc/ssl/certs/ca-certificates.crt"]
bundles += [os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
trusted = certificates(path for path in bundles if path)
usual = certificates(DEBIANS_CERTIFICATES.rglob("*.crt"))
own = [text for body, text in trusted.items() if body not in usual]
if own:
    pip_lines["cert"] = "/run/host-packages/ca.pem"
    apt_lines["Acquire::https::CAInfo"] = "/run/host-packages/ca.pem"

lines = [
    "#cloud-boothook",
    "#!/bin/sh",
    "# How this guest's host reaches its package mirror and index (make/guest-packages.py).",
    "set -eu",
    "mkdir -p /run/host-packages",
    # Unmounted and, where it was empty, removed before the disk becomes an image. Without semicolons: systemd 252 escapes them in
    # the unit that it writes, and reads them otherwise after a reload.
    "over() {",
    '    [ -e "$2" ] || : >"$2"',
    '    mount --bind "/run/host-packages/$1" "$2"',
    '    systemd-run --quiet --no-block --remain-after-exit --unit="host-packages-$1" \\',
    """        --property=ExecStop="/bin/sh -c 'umount $2 && [ ! -s $2 ] && rm $2'" true""",
    "}",
]


def file(name, content, to):
    lines.extend([f"cat >/run/host-packages/{name} <<'END'", *content, "END", f"over {name} {to}"])


if own:
    lines += ["cat /etc/ssl/certs/ca-certificates.crt - >/run/host-packages/ca.pem <<'END'", *own, "END"]
if pip_lines:
    file("pip.conf", ["[global]", *(f"{key} = {for_guest(value)}" for key, value in pip_lines.items())], "/etc/pip.conf")
if apt_lines:
    file("apt.conf", [f'{key} "{for_guest(value)}";' for key, value in apt_lines.items()], "/etc/apt/apt.conf")
script = "\n".join(lines) + "\n"
if len(script) > LIMIT:
    sys.exit(
        f"guest-packages: {len(script)} bytes, and user data is {LIMIT} at most: {len(own)} certificates here are not Debian's\n"
        "hint: install ca-certificates, whose own certificates are left out, and keep the others few"
    )
sys.stdout.write(script)
