#!/bin/sh
# Installs the staged folders, files and symbolic links.
# `folders` has one line per folder: mode, owner, group, the absolute path; without a mode (-) one that exists is left alone.
# `files` has one line per file: mode, a space, the absolute destination. `owners` names those that are not root's: owner,
# group, destination. `links` has two lines per symbolic link: its path, then its target.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}

# Every owner and group that is missing is named before anything is installed.
status=0
owned() { # owner, group, path
    if ! getent passwd "$1" >/dev/null; then
        echo "imagebuilder: $3 is to belong to the user $1, whom this image does not have: add [image.users.$1]" >&2
        status=1
    fi
    if ! getent group "$2" >/dev/null; then
        echo "imagebuilder: $3 is to belong to the group $2, which this image does not have: add [image.groups.$2]" >&2
        status=1
    fi
}
while read -r _ owner group path; do
    owned "$owner" "$group" "$path"
done <"$stage/folders"
while read -r owner group dest; do
    owned "$owner" "$group" "$dest"
done <"$stage/owners"
[ "$status" -eq 0 ] || exit 1

labels=$stage/labels
: >"$labels"
touches() { # a path that is installed next: it and the folders that are made for it are labelled at the end
    at=$1
    printf '%s\n' "$at" >>"$labels"
    at=${at%/*}
    while [ -n "$at" ] && [ ! -e "$at" ]; do
        printf '%s\n' "$at" >>"$labels"
        at=${at%/*}
    done
}

while read -r mode owner group path; do
    [ "$mode" = - ] && [ -d "$path" ] || touches "$path"
    if [ "$mode" != - ]; then
        install -d -o "$owner" -g "$group" -m "$mode" "$path"
    elif [ ! -d "$path" ]; then
        install -d -o "$owner" -g "$group" -m 0755 "$path"
    fi
done <"$stage/folders"
while read -r mode dest; do
    touches "$dest"
    install -D -o root -g root -m "$mode" "$stage/root$dest" "$dest"
done <"$stage/files"
# After a change of the owner the mode is set again: chown takes set-user-ID away.
while read -r owner group dest; do
    mode=$(stat -c %a "$dest")
    chown "$owner:$group" "$dest"
    chmod "$mode" "$dest"
done <"$stage/owners"
while IFS= read -r path && IFS= read -r target; do
    touches "$path"
    [ -d "${path%/*}/" ] || install -d -o root -g root -m 0755 "${path%/*}/"
    ln -sfn -- "$target" "$path"
done <"$stage/links"
# The labels of the system's policy, where SELinux is on: nothing keeps one of the staging folder or of a file that was replaced.
if command -v restorecon >/dev/null 2>&1 && command -v selinuxenabled >/dev/null 2>&1 && selinuxenabled; then
    restorecon -F -f "$labels"
fi
