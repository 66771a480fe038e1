"""A small Flask application: candidates by name, kept in a file on the instance.

GET /gtg answers 200 when this process can serve; imagebuilder-agent, the target group and you ask it.
"""

import json
import os
import sqlite3
import urllib.request

from flask import Flask, jsonify, request

app = Flask(__name__)

# systemd makes the folder (StateDirectory=) and passes its path. It ends with its instance: a real application keeps
# what must last in a database of its own.
DATABASE = os.path.join(os.environ.get("STATE_DIRECTORY", "."), "candidates.db")
# Longer names are refused, as the longest key of DynamoDB.
LONGEST_NAME = 2048
METADATA = "http://169.254.169.254/latest"

instance = None


def database():
    """Opens the store. All workers share it."""
    connection = sqlite3.connect(DATABASE, timeout=10)
    connection.execute("CREATE TABLE IF NOT EXISTS candidates (name TEXT PRIMARY KEY)")
    return connection


def instance_id():
    """The instance's id from the metadata service; `unknown` on a machine without one."""
    global instance
    if instance is None:
        try:
            seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            ask = urllib.request.Request(f"{METADATA}/api/token", method="PUT", headers=seconds)
            # Without a proxy: the metadata service is this machine's own.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(ask, timeout=2) as answer:
                token = {"X-aws-ec2-metadata-token": answer.read().decode()}
            ask = urllib.request.Request(f"{METADATA}/meta-data/instance-id", headers=token)
            with opener.open(ask, timeout=2) as answer:
                instance = answer.read().decode()
        except OSError:
            return "unknown"
    return instance


@app.get("/")
def root():
    return jsonify({"status": "invalid request"}), 400


@app.get("/gtg")
def gtg():
    if "details" in request.args:
        return jsonify({"connected": "true", "instance-id": instance_id()})
    return ""


@app.get("/candidate/<name>")
def candidate(name):
    with database() as store:
        found = store.execute("SELECT name FROM candidates WHERE name = ?", (name,)).fetchone()
    if found is None:
        return "Not Found", 404
    return json.dumps([{"CandidateName": found[0]}])


@app.post("/candidate/<name>")
def add(name):
    if len(name.encode()) > LONGEST_NAME:
        return "Unable to update", 500
    try:
        with database() as store:
            store.execute("INSERT OR IGNORE INTO candidates VALUES (?)", (name,))
    except sqlite3.Error:
        app.logger.exception("store a candidate")
        return "Unable to update", 500
    return jsonify({"CandidateName": name})


@app.get("/candidates")
def candidates():
    with database() as store:
        names = store.execute("SELECT name FROM candidates ORDER BY name").fetchall()
    if not names:
        return "Not Found", 404
    return json.dumps([{"CandidateName": name} for (name,) in names])
