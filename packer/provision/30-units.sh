#!/bin/sh
# Enables the staged units.
set -eu
stage=/tmp/imagebuilder
systemctl daemon-reload
while read -r unit; do
    systemctl enable --quiet "$unit"
done <"$stage/units"
