#!/usr/bin/env bash
# Installs what `make conformance` needs beside Python: a JDK and Maven for the FHIR validator and HAPI, Node.js and npm
# for peers of MLLP and FHIR, Chromium for a SMART app. Debian 12 or Ubuntu 24.04.
set -euo pipefail

declare -A packages=([javac]=openjdk-17-jdk-headless [mvn]=maven [node]=nodejs [npm]=npm [chromium]=chromium
    [chromedriver]=chromium-driver)
missing=()
for program in "${!packages[@]}"; do
    command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "make conformance needs more programs: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
