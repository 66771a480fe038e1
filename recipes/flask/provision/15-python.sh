#!/bin/sh
# Makes the application's virtual environment: exactly what requirements.lock lists, wheels only, each verified by its hash.
# Nothing is installed later: an instance needs no package index.
set -eu
app=/opt/app
pip() { "$app/venv/bin/python" -m pip --no-input --disable-pip-version-check "$@"; }
python3 -m venv --clear "$app/venv"
pip install --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: --requirement "$app/requirements.lock"
# An application that is a package of its own: bring its wheel as a payload to /opt/app/wheels.
for wheel in "$app"/wheels/*.whl; do
    [ ! -e "$wheel" ] || pip install --quiet --no-cache-dir --no-deps --no-index "$wheel"
done
# What a package needs and the lock does not have would be missing on every instance.
pip check
# The service cannot write beside its code.
"$app/venv/bin/python" -m compileall -q "$app"
nginx -q -t
