#!/usr/bin/env bash
# curl, with the lines that a README has.
set -euo pipefail
url=$1
headers=(-H 'Content-Type: application/json' -H 'Authorization: Bearer unused')
question='What is the capital of Canada?'
schema='{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"],"additionalProperties":false}'
tool='{"type":"function","function":{"name":"lookup","parameters":{"type":"object","properties":{"q":{"type":"string"}}}}}'
ask() { curl -sS "${headers[@]}" "$url/chat/completions" -d "$1"; }
body() { printf '{"model":"%s","messages":[{"role":"user","content":"%s"}]%s}' "$1" "$2" "${3:-}"; }
quoted() { python3 -c 'import json, sys; print(json.dumps(sys.stdin.read()), end="")'; }
content() { python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["choices"][0]["message"]["content"]), end="")'; }
# What the user said, the call, and its result.
turns() {
  python3 -c '
import json, sys
message = json.load(sys.stdin)["choices"][0]["message"]
(call,) = message["tool_calls"]
user = {"role": "user", "content": sys.argv[1]}
result = {"role": "tool", "tool_call_id": call["id"], "content": "It is Ottawa, says the tool."}
print(json.dumps([user, message, result]))' "$1"
}

said() {
  printf '"%s":{"list":%s,' "$1" "$(curl -sS "$url/models" | quoted)"
  printf '"retrieve":%s,' "$(curl -sS "$url/models/$1" | quoted)"
  printf '"whole":%s,' "$(ask "$(body "$1" "$question")" | content)"
  printf '"streamed":%s,' "$(ask "$(body "$1" "$question" ',"stream":true')" | quoted)"
  turns=$(ask "$(body "$1" "Use lookup. $question" ",\"tools\":[$tool]")" | turns "Use lookup. $question")
  printf '"tools":%s,' "$(ask "{\"model\":\"$1\",\"messages\":$turns,\"tools\":[$tool]}" | content)"
  format=",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":$schema}}"
  printf '"structured":%s,' "$(ask "$(body "$1" "$question" "$format")" | content)"
  printf '"error":%s},' "$(ask "$(body nobody "$question")" | quoted)"
}

printf '{'
said looper/one
said looper/team
# head has what it wants, and curl finds nobody to write to.
left=$(ask "$(body looper/slow "$question" ',"stream":true')" 2>/dev/null | head -c 300 | wc -c || true)
printf '"looper/slow":{"leave":%s}}\n' "$([ "$left" -ge 300 ] && echo true || echo false)"
