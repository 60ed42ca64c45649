#!/bin/bash
# A service that cannot verify tokens is reached only with good ones; the verifying service is asked once in a while. Arguments: the CA's certificate, the
# folder of what it said, for how many seconds that holds, and the folder of announced members.
set -euo pipefail
ca=$1 cache=$2 seconds=$3 fragments=$4
ask() { curl --silent --max-time 10 --cacert "$ca" --dump-header /tmp/head --output /tmp/body --write-out '%{http_code}' "$@"; }
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }
header() { tr -d '\r' < /tmp/head | sed -n "s/^$1: //Ip"; }
user() { printf %s "user-$(printf %s "$1" | sha256sum | cut -c -8)"; }
asked() { wc -l < /run/validated; }
received() { python3 -c 'import json, sys; print({k.lower(): v for k, v in json.load(open("/tmp/body"))["headers"].items()}.get(sys.argv[1]))' "$1"; }
problem() {  # problem STATUS: the last answer was one
  python3 - "$1" <<'P'
import json, sys
problem = json.load(open("/tmp/body"))
head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in open("/tmp/head"))}
assert head["content-type"] == "application/problem+json" and problem["status"] == int(sys.argv[1]), (problem, head)
assert problem["request_id"] == head["x-request-id"], (problem, head)
P
}
token="good-$(openssl rand -hex 8)"
good="Authorization: Bearer $token"
: > /run/validated
trap 'sed -i "s/\"drain\": true/\"drain\": false/" "$fragments/orders/one.json"' EXIT

is 'no token' "$(ask https://localhost/legacy/x) $(header www-authenticate)" '401 Bearer'
problem 401
is 'nobody was asked about it' "$(asked)" 0
is 'a bad token' "$(ask -H 'Authorization: Bearer bad' https://localhost/legacy/x) $(header www-authenticate)" '401 Bearer error="invalid_token"'
problem 401
is 'the bad token again' "$(ask -H 'Authorization: Bearer bad' https://localhost/legacy/x)" 401
is 'a refusal is not remembered' "$(asked)" 2

for _ in $(seq 5); do is 'a good token' "$(ask -H "$good" -H 'X-User-Id: somebody-else' https://localhost/legacy/x)" 200; done
is 'it was asked about once' "$(asked)" 3
is 'who the service is told it is' "$(received x-user-id)" "$(user "$token")"
is 'the token, which the service has no use for' "$(received authorization)" None
is 'a request of a body' "$(ask -H "$good" --data some https://localhost/legacy/x)" 200
is 'a token that begins in the same way' "$(ask -H "${good}x" https://localhost/legacy/x)" 200
is 'it is another one' "$(received x-user-id) $(asked)" "$(user "${token}x") 4"
is 'the same token, written otherwise' "$(ask -H "Authorization: bearer $token" https://localhost/legacy/x)" 401
is 'a service that verifies by itself' "$(ask -H "$good" -H 'X-User-Id: somebody-else' https://localhost/api/x) $(received authorization) $(received x-user-id)" "200 Bearer $token None"
is 'the inner page, asked from outside' "$(ask -H "$good" https://localhost/problem/token)" 404

[ -n "$(find "$cache" -type f)" ] || fail 'nothing was remembered on disk: the next check checks nothing'
if grep -rqF "$token" "$cache" /var/log/nginx; then fail 'a token is on disk'; fi

count=$(asked)
sleep "$seconds.5"
is 'the good token, later' "$(ask -H "$good" https://localhost/legacy/x)" 200
is 'it was asked about again' "$(asked)" $((count + 1))

# Of many requests at once, one asks.
count=$(asked)
curl --silent --max-time 10 --cacert "$ca" --interface 127.0.0.2 -H 'X-Forwarded-For: 10.9.8.7' \
  --parallel --parallel-max 20 --output /dev/null --write-out '%{http_code}\n' -H "${good}y" 'https://localhost/legacy/x?[1-20]' | sort | uniq --count | xargs > /tmp/statuses
is 'many at once' "$(cat /tmp/statuses)" '20 200'
is 'of which one asked' "$(asked)" $((count + 1))

# The verifying service is away: what is remembered is good, and the rest is told to come back.
sed -i 's/"drain": false/"drain": true/' "$fragments/orders/one.json"
for _ in $(seq 50); do
  [ "$(ask https://localhost/orders)" = 503 ] && break
  sleep 0.2
done
is 'a token that nobody can verify' "$(ask -H "${good}z" https://localhost/legacy/x) $(header retry-after)" '503 2'
problem 503
