#!/bin/sh
# Creates logins for the broker and Grafana; keeps existing ones.
#
#   passwords.sh FOLDER [DEVICE…]
#
# Writes to FOLDER: broker/passwords (hashed), and for each user a file with the password, readable by
# the program that needs it. Needs mosquitto_passwd, which is in the image of mosquitto.
set -eu
umask 077
folder=$1
shift

for device in "$@"; do
    case $device in
    attendant | learner | monitor | segmenter | viewer) echo "passwords.sh: $device is not a device name" >&2 && exit 64 ;;
    *[!A-Za-z0-9._-]* | '') echo "passwords.sh: '$device': use letters, digits, . _ -" >&2 && exit 64 ;;
    esac
done

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

owned_by() { # by number, for the users are those of other images; who is not root keeps the files
    [ "$(id -u)" != 0 ] || chown -R "$@"
}

login() { # folder and name of the file, user
    [ ! -e "$1/$2" ] || return 0
    random >"$1/$2.new"
    # Hash the password in a file: as an argument it would be visible to all processes.
    printf '%s:%s\n' "$3" "$(cat "$1/$2.new")" >"$folder/broker/new"
    mosquitto_passwd -U "$folder/broker/new"
    cat "$folder/broker/new" >>"$folder/broker/passwords"
    rm "$folder/broker/new"
    mv "$1/$2.new" "$1/$2"
    echo "made a login for $3"
}

for part in attendant broker devices grafana learner monitor page segmenter viewer; do
    mkdir -p "$folder/$part"
done
chmod 755 "$folder"
login "$folder/monitor" password monitor
login "$folder/segmenter" password segmenter
login "$folder/learner" password learner
login "$folder/viewer" password viewer
login "$folder/attendant" password attendant
for device in "$@"; do
    login "$folder/devices" "$device" "$device"
done
[ -e "$folder/grafana/password" ] || random >"$folder/grafana/password"
[ -e "$folder/page/token" ] || random >"$folder/page/token"

owned_by 1883:1883 "$folder/broker"
owned_by 10001:10001 "$folder/devices" "$folder/learner" "$folder/monitor" "$folder/page" \
    "$folder/segmenter"
owned_by 472:0 "$folder/grafana"
