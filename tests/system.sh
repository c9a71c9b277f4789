#!/usr/bin/env bash
# Installs what tests need beyond pip, where that may be done (root and apt); says what is missing where not.
# Usage: tests/system.sh COMMAND=PACKAGE…
set -uo pipefail

missing=()
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair##*=}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 && exit 0
fi
echo "Not installed, and cannot be installed here: ${missing[*]}. The tests that need them are left out."
# Under CI a test that cannot run is a failure; the tests themselves see to that.
exit 0
