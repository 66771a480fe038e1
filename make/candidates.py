#!/usr/bin/env python3
"""Requests every answer of the candidate contract from a service, and exits 1 at the first that differs.

candidates.py [URL]; http://127.0.0.1:5000 when left out. Waits at most two minutes for the service.
"""

import json
import sys
import time
import urllib.error
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5000"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(method, path, body=None):
    request = urllib.request.Request(url + path, method=method, data=body)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def expect(method, path, *wanted, body=None):
    answer = ask(method, path, body)
    if answer[: len(wanted)] != wanted:
        sys.exit(f"candidates: {method} {path}: {answer}, expected {wanted}")
    print(f"candidates: {method} {path[:40]}: {answer[0]}", file=sys.stderr)
    return answer


end = time.monotonic() + 120
while True:
    try:
        if ask("GET", "/gtg")[0] == 200:
            break
    except OSError:
        pass
    if time.monotonic() > end:
        sys.exit(f"candidates: {url}/gtg has not answered 200 within 120 s")
    time.sleep(0.2)

html, plain = "text/html", "application/json"
expect("GET", "/", 400, plain, b'{"status":"invalid request"}\n')
expect("GET", "/gtg", 200, html, b"")
for query in ("?details", "?details=", "?details=true"):
    details = json.loads(expect("GET", f"/gtg{query}", 200, plain)[2])
    if set(details) != {"connected", "instance-id"} or details["connected"] != "true":
        sys.exit(f"candidates: details are {details}")
expect("GET", "/candidate/Nobody", 404, html, b"Not Found")
first = ask("GET", "/candidates")
if first[0] not in (200, 404):
    sys.exit(f"candidates: GET /candidates: {first}")
for body in (b"", b"a=b"):
    expect("POST", "/candidate/John%20Smith", 200, plain, b'{"CandidateName":"John Smith"}\n', body=body)
expect("GET", "/candidate/John%20Smith", 200, html, b'[{"CandidateName": "John Smith"}]')
expect("POST", "/candidate/Ren%C3%A9", 200, plain, b'{"CandidateName":"Ren\\u00e9"}\n', body=b"")
expect("GET", "/candidate/Ren%C3%A9", 200, html, b'[{"CandidateName": "Ren\\u00e9"}]')
everyone = json.loads(expect("GET", "/candidates", 200, html)[2])
if {"CandidateName": "John Smith"} not in everyone:
    sys.exit(f"candidates: {everyone}")
expect("POST", f"/candidate/{'x' * 2049}", 500, html, b"Unable to update", body=b"")
expect("PUT", "/candidate/x", 405, html, body=b"")
for path in ("/candidate/", "/candidate/a%2Fb", "/nothing"):
    expect("GET", path, 404, html)
print("candidates: every answer is as agreed")
