#!/usr/bin/env bash
# Sets up the shop's signed channel, once: a public bucket, new keys, an empty repository. The rest is in
# `imagebuilder.toml`. Keep keys/root-*.pem offline afterwards: only `channel rotate-root` needs them.
set -euo pipefail
cd "$(dirname "$0")"

aws s3api create-bucket --bucket shop-channel >/dev/null
# Public reading is safe, since signatures are verified. Listing too, so that S3 responds 404 instead of 403 to missing keys.
aws s3api put-bucket-policy --bucket shop-channel --policy '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::shop-channel/agent/*"},
  {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::shop-channel"}]}'
imagebuilder channel init --generate-keys keys
