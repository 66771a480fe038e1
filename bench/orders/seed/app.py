"""The flower shop's order service, re-created from its contract; `orders` is compared with it.

Re-created from the contract (docs/orders.md, "Where it differs"), not copied. Deliberately like the original:
the object's name is the second of its arrival, the put is unconditional, nothing is validated, and every order waits
for a metric call. Run by Gunicorn with four sync workers, as a shop with more than one visitor would.

SEED_FOLDER      store orders as files there, without fsync and without the metric call
else             boto3 to AWS_ENDPOINT_URL: PutObject, then PutMetricData
"""

import json
import os
from datetime import datetime, timezone
from pathlib import Path

from flask import Flask, jsonify, request
from flask_cors import CORS

app = Flask(__name__)
CORS(app)


def key():
    return f"orders/order-{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}.json"


if folder := os.environ.get("SEED_FOLDER"):
    Path(folder, "orders").mkdir(parents=True, exist_ok=True)

    def keep(order):
        Path(folder, key()).write_text(json.dumps(order))
else:
    import boto3

    s3 = boto3.client("s3")
    cloudwatch = boto3.client("cloudwatch")

    def keep(order):
        s3.put_object(Bucket="shop", Key=key(), Body=json.dumps(order), ContentType="application/json")
        cloudwatch.put_metric_data(
            Namespace="FlowerShop", MetricData=[{"MetricName": "OrderCount", "Value": 1, "Unit": "Count"}]
        )


@app.get("/")
def index():
    return "OK"


@app.get("/gtg")
def good_to_go():
    return ""


@app.get("/order")
def order_endpoint():
    return "Order endpoint OK"


@app.post("/order")
def place_order():
    keep(request.get_json())
    return jsonify(message="Order received")
