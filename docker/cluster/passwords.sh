#!/bin/sh
# Creates the logins of the cluster; keeps existing ones.
#
#   passwords.sh FOLDER [STORE…]
#
# Writes to FOLDER: nats/passwords.conf, and for each user a file with the password, readable by the
# program that needs it. Gives the nodes' stores to the user that they run as.
set -eu
umask 077
folder=$1
shift
mkdir -p "$folder/nats"
chmod 755 "$folder"
for user in monitor device viewer; do
    [ ! -e "$folder/$user/password" ] || continue
    mkdir -p "$folder/$user"
    password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
    printf '%s\n' "$password" >"$folder/$user/password"
    printf '%s_password: "%s"\n' "$user" "$password" >>"$folder/nats/passwords.conf"
    echo "made a login for $user"
done
[ "$(id -u)" = 0 ] || exit 0
chown -R 1883:1883 "$folder/nats" "$@"
chown -R 10001:10001 "$folder/monitor" "$folder/device" "$folder/viewer"
