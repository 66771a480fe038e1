#!/bin/sh
# Installs the staged files, each with its mode and owned by root.
# `files` has one line per file: mode, a space, the absolute destination.
set -eu
stage=/tmp/imagebuilder
while read -r mode dest; do
    install -D -o root -g root -m "$mode" "$stage/root$dest" "$dest"
done <"$stage/files"
