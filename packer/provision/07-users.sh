#!/bin/sh
# Creates groups and users, or changes those that are there to what is configured.
# `groups` has one line per group: name, gid, yes for a system group.
# `users` has one line per user: name, uid, yes for a system user, primary group, further groups, home, shell, comment.
# A minus stands for nothing.
set -eu
stage=${IMAGEBUILDER_STAGE:-/var/tmp/imagebuilder}
status=0

wrong() {
    echo "imagebuilder: $*" >&2
    status=1
}

field() { # database, name, number of the field
    getent "$1" "$2" | cut -d: -f"$3"
}

while read -r name gid system; do
    if getent group "$name" >/dev/null; then
        [ "$gid" = - ] || [ "$gid" = "$(field group "$name" 3)" ] ||
            wrong "[image.groups.$name] gid is $gid, and this image has the group with $(field group "$name" 3)"
        continue
    fi
    set -- "$name"
    [ "$gid" = - ] || set -- --gid "$gid" "$@"
    [ "$system" != yes ] || set -- --system "$@"
    groupadd "$@" || wrong "[image.groups.$name] cannot be created"
done <"$stage/groups"

# All missing groups are named before the first user is made.
while read -r name _ _ group groups _; do
    for each in $group $(printf '%s' "$groups" | tr , ' '); do
        [ "$each" = - ] || getent group "$each" >/dev/null ||
            wrong "[image.users.$name] is to be in the group $each, which this image does not have: add [image.groups.$each]"
    done
done <"$stage/users"
[ "$status" -eq 0 ] || exit 1

while read -r name uid system group groups home shell comment; do
    if getent passwd "$name" >/dev/null; then
        if [ "$uid" != - ] && [ "$uid" != "$(field passwd "$name" 3)" ]; then
            wrong "[image.users.$name] uid is $uid, and this image has the user with $(field passwd "$name" 3)"
            continue
        fi
        # usermod refuses to change nothing on some systems, and a user with processes on all: only what differs.
        set --
        [ "$group" = - ] || [ "$(id -gn "$name")" = "$group" ] || set -- --gid "$group" "$@"
        [ "$home" = - ] || [ "$(field passwd "$name" 6)" = "$home" ] || set -- --home "$home" "$@"
        [ "$shell" = - ] || [ "$(field passwd "$name" 7)" = "$shell" ] || set -- --shell "$shell" "$@"
        [ "$comment" = - ] || [ "$(field passwd "$name" 5)" = "$comment" ] || set -- --comment "$comment" "$@"
        [ "$groups" = - ] || set -- --append --groups "$groups" "$@"
        [ $# -eq 0 ] || usermod "$@" "$name" || wrong "[image.users.$name] cannot be changed"
        continue
    fi
    set -- "$name"
    [ "$uid" = - ] || set -- --uid "$uid" "$@"
    if [ "$group" != - ]; then
        set -- --gid "$group" "$@"
    elif getent group "$name" >/dev/null; then
        set -- --gid "$name" "$@"
    else
        set -- --user-group "$@"
    fi
    [ "$groups" = - ] || set -- --groups "$groups" "$@"
    [ "$comment" = - ] || set -- --comment "$comment" "$@"
    if [ "$system" = yes ]; then
        [ "$home" != - ] || home=/
        [ "$shell" != - ] || shell=/usr/sbin/nologin
        set -- --system --no-create-home "$@"
    else
        [ "$shell" != - ] || shell=/bin/bash
        set -- --create-home "$@"
    fi
    [ "$home" = - ] || set -- --home-dir "$home" "$@"
    useradd --shell "$shell" "$@" || wrong "[image.users.$name] cannot be created"
done <"$stage/users"
exit "$status"
