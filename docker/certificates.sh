#!/bin/sh
# Creates a private CA and certificates signed by it, for trying out TLS; keeps existing files.
#
#   certificates.sh FOLDER HOST…          for the broker, with these names or addresses
#   certificates.sh FOLDER --client NAME  for a client, if the broker requires one
#
# Anyone with FOLDER/ca.key can create certificates: in production, keep it off the machine.
set -eu
umask 077
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
chmod 755 .

sign() { # name of the files, subject, extensions
    openssl req -newkey rsa:3072 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>/dev/null
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 397 -sha256 \
        -extfile "$1.ext" -out "$1.crt" 2>/dev/null
    rm "$1.csr" "$1.ext"
    chmod 644 "$1.crt"
    echo "made $folder/$1.crt"
}

if [ ! -e ca.crt ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -keyout ca.key -out ca.crt -days 3650 -sha256 \
        -subj "/CN=ECG monitor private CA" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
    chmod 644 ca.crt
    echo "made $folder/ca.crt"
fi

common='authorityKeyIdentifier=keyid
subjectKeyIdentifier=hash'
if [ "$1" = --client ]; then
    [ -e "$2.crt" ] || sign "$2" "$2" "$common
extendedKeyUsage=clientAuth"
elif [ ! -e broker.crt ]; then
    names=
    for host in "$@"; do
        case $host in
        *[!0-9.]*) names="${names:+$names,}DNS:$host" ;;
        *) names="${names:+$names,}IP:$host" ;;
        esac
    done
    sign broker "$1" "$common
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$names"
    [ "$(id -u)" != 0 ] || chown 1883:1883 broker.key
fi
