"""An instance of the stories: it serves, judges itself, writes its registry record, and completes its launch hook.

Run by the rehearsal cloud for every instance, as `python3 puppet.py SICK`. SICK is a file that names the images whose
instances are unfit, one per line. Uses the standard library only, and calls the cloud as any agent would.
"""

import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
INSTANCE = os.environ["REHEARSAL_INSTANCE_ID"]
IMAGE = os.environ["REHEARSAL_IMAGE_ID"]
ADDRESS = os.environ["REHEARSAL_ADDRESS"]


def call(service, body, headers):
    scope = f"AKIAPUPPET/20260101/us-east-1/{service}/aws4_request"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    request = urllib.request.Request(ENDPOINT, data=body.encode(), headers=headers, method="POST")
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def autoscaling(action, **parameters):
    body = urllib.parse.urlencode({"Action": action, "Version": "2011-01-01", **parameters})
    return call("autoscaling", body, {"Content-Type": "application/x-www-form-urlencoded"})


def record(verdict, reason):
    value = {
        "schema": 1,
        "instance_id": INSTANCE,
        "image_id": IMAGE,
        "verdict": verdict,
        "reason": reason,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "agent": "0.0.0",
        "services": {},
    }
    name = f"/imagebuilder/shop/instances/{INSTANCE}"
    body = {"Name": name, "Value": json.dumps(value), "Type": "String", "Overwrite": True}
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutParameter"}
    call("ssm", json.dumps(body), headers)


class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    with open(sys.argv[1], encoding="utf-8") as sick:
        unfit = IMAGE in sick.read().split()
    server = http.server.ThreadingHTTPServer((ADDRESS, 8080), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    record("unfit", "orders: /gtg answers 503") if unfit else record("fit", "")
    while True:
        answer = autoscaling("DescribeAutoScalingInstances", **{"InstanceIds.member.1": INSTANCE})
        state = re.search("<LifecycleState>(.*?)</LifecycleState>", answer)
        if state is None or state[1] == "InService":
            break
        group = re.search("<AutoScalingGroupName>(.*?)</AutoScalingGroupName>", answer)
        try:
            autoscaling(
                "CompleteLifecycleAction",
                AutoScalingGroupName=group[1],
                LifecycleHookName="gate",
                InstanceId=INSTANCE,
                LifecycleActionResult="ABANDON" if unfit else "CONTINUE",
            )
            break
        except urllib.error.HTTPError:
            # Not in Pending:Wait yet.
            time.sleep(0.05)
    threading.Event().wait()


main()
