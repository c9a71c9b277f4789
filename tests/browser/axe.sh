#!/usr/bin/env bash
# Gets axe-core, which checks what screen readers and keyboards need, into tests/browser/.axe, once.
set -euo pipefail
version=4.11.0
target="$(cd "$(dirname "$0")" && pwd)/.axe/axe.min.js"
[ -s "$target" ] && exit 0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! (cd "$folder" && npm pack --silent "axe-core@$version" >/dev/null && tar xzf axe-core-*.tgz package/axe.min.js); then
  echo "Not installed, and cannot be installed here: axe-core. The tests that need it are left out."
  # Under CI a test that cannot run is a failure; the tests themselves see to that.
  exit 0
fi
mkdir -p "$(dirname "$target")"
mv "$folder/package/axe.min.js" "$target"
