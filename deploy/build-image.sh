#!/bin/sh
# Builds the image on a base that is pinned by its digest, and labels it with what it was made of.
#
#   deploy/build-image.sh [TAG]      TAG: cross-cloud-replicator:VERSION
#
# PYTHON_IMAGE=python:TAG@sha256:... names the base; without a digest, the registry is asked for the present one.
# SOURCE=https://... is where the sources are.
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' consumer/__init__.py)
base=${PYTHON_IMAGE:-$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile | head -n 1)}
case $base in
*@*) ;;
*) base=$base@$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$base") ;;
esac
if ! printf '%s\n' "$base" | grep -Eqx 'python:[[:alnum:]._-]+@sha256:[0-9a-f]{64}'; then
    echo "PYTHON_IMAGE must be python:TAG@sha256: and 64 hexadecimal digits, not $base" >&2
    exit 2
fi
exec docker build \
    --build-arg "PYTHON_IMAGE=$base" \
    --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    --build-arg "REVISION=$(git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null || true)" \
    --build-arg "SOURCE=${SOURCE:-}" \
    --build-arg "VERSION=$version" \
    --tag "${1:-cross-cloud-replicator:$version}" .
