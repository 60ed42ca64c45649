#!/bin/bash
# What the edge does to who sends too much. Argument: the CA's certificate.
# The route /orders/ lets in 5 requests of an address at once, and then one each 10 s. 127.0.0.2 is a trusted proxy that names the client.
set -euo pipefail
ca=$1
ask() { curl --silent --max-time 10 --cacert "$ca" --interface 127.0.0.2 "$@"; }
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }
# sent COUNT CLIENT PATH: how often each status was the answer
sent() { ask --output /dev/null --write-out '%{http_code}\n' -H "X-Forwarded-For: $2" "https://localhost$3?[1-$1]" | sort | uniq --count | xargs; }

is 'more than an address may send' "$(sent 8 198.51.100.1 /orders/)" '5 200 3 429'
is 'the same from another address' "$(sent 5 198.51.100.2 /orders/)" '5 200'
is 'the same address on another route' "$(sent 8 198.51.100.1 /orders)" '8 200'
is 'an address of a /64' "$(sent 5 2001:db8:0:1::1 /orders/)" '5 200'
is 'another address of that /64' "$(sent 2 2001:db8:0:1:ffff::2 /orders/)" '2 429'
is 'an address of the next /64' "$(sent 5 2001:db8:0:2::1 /orders/)" '5 200'
is 'a network without limits' "$(sent 20 10.9.8.7 /orders/)" '20 200'

ask --dump-header /tmp/head --output /tmp/body -H 'X-Forwarded-For: 198.51.100.1' https://localhost/orders/
python3 - <<'P'
import json
problem = json.load(open("/tmp/body"))
head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in open("/tmp/head"))}
assert problem["status"] == 429 and problem["title"] == "Too Many Requests", problem
assert head["content-type"] == "application/problem+json", head
assert problem["request_id"] == head["x-request-id"], (problem, head)
assert head["retry-after"] == "10", head
P
