#!/usr/bin/env bash
# The shop's signed channel as its owner sets it up once: a bucket that anybody may read, fresh keys, an empty repository.
# `imagebuilder.toml` has the rest. Keep keys/root-*.pem offline afterwards: only `channel rotate-root` needs them.
set -euo pipefail
cd "$(dirname "$0")"

aws s3api create-bucket --bucket shop-channel >/dev/null
# Reading is public: what counts is who signed. Listing too, so that S3 answers 404 and not 403 for what is not there yet.
aws s3api put-bucket-policy --bucket shop-channel --policy '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::shop-channel/agent/*"},
  {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::shop-channel"}]}'
imagebuilder channel init --generate-keys keys
