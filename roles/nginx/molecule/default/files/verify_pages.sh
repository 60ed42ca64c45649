#!/bin/bash
# Security headers, compression, static files, maintenance, draining, and reloads under load. Arguments: the CA's certificate, the flag files of maintenance
# and draining, and the port that keepalived asks.
set -euo pipefail
ca=$1 maintenance=$2 draining=$3 status_port=$4
ask() { curl --silent --max-time 20 --cacert "$ca" --dump-header /tmp/head --output /tmp/body --write-out '%{http_code}' "$@"; }
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }
header() { tr -d '\r' < /tmp/head | sed -n "s/^$1: //Ip"; }
trap 'rm -f "$maintenance" "$draining"' EXIT

is 'a page' "$(ask https://localhost/ui/)" 200
[[ $(header content-security-policy) =~ ^default-src\ .self. ]] || fail "the page's policy is $(header content-security-policy)"
is 'how long it is kept' "$(header cache-control)" no-cache
for wanted in 'strict-transport-security: max-age=31536000' 'x-content-type-options: nosniff' 'x-frame-options: DENY' 'referrer-policy: no-referrer'; do
  grep -iq "^$wanted" /tmp/head || fail "no $wanted"
done
is 'the page again' "$(ask -H "If-None-Match: $(header etag)" https://localhost/ui/index.html)" 304
is 'an API answer' "$(ask https://localhost/api/x)" 200
is "its policy" "$(header content-security-policy)" "default-src 'none'; frame-ancestors 'none'"
is 'how long it is kept' "$(header cache-control)" ''

is 'a style sheet' "$(ask -H 'Accept-Encoding: gzip' https://localhost/ui/style-0a1b2c3d.css)" 200
is 'its encoding, and how long it is kept' "$(header content-encoding) $(header vary) $(header cache-control)" 'gzip Accept-Encoding public, max-age=31536000, immutable'
gzip --decompress --stdout < /tmp/body | grep '^.order-59' > /dev/null || fail 'the style sheet is not what it was'
is 'one whose name has a date' "$(ask https://localhost/ui/report-20250101.css) $(header cache-control)" '200 no-cache'
is 'one that is not there (yet)' "$(ask https://localhost/ui/style-deadbeef1.css) $(header cache-control)" '404 '
is 'what is beside the folder' "$(ask --path-as-is https://localhost/ui/../../etc/passwd)" 400
is 'an encoded way out' "$(ask --path-as-is https://localhost/ui/..%2f..%2f..%2f..%2fetc/passwd)" 400
is 'a POST' "$(ask --data x https://localhost/ui/index.html)" 405
is 'a long API answer, which is not compressed' "$(ask -H 'Accept-Encoding: gzip' "https://localhost/api/$(printf 'x%.0s' {1..3000})") $(header content-encoding)" '200 '

# Maintenance begins and ends with the file, without a reload.
touch "$maintenance"
is 'an API in maintenance' "$(ask https://localhost/api/v1/items)" 503
is 'its type, and when to come back' "$(header content-type) $(header retry-after)" 'application/problem+json 300'
python3 - <<'P'
import json
problem = json.load(open("/tmp/body"))
head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in open("/tmp/head"))}
assert problem["status"] == 503 and problem["title"] == "Under Maintenance", problem
assert problem["request_id"] == head["x-request-id"], (problem, head)
P
browser='Accept: text/html,application/xhtml+xml,*/*;q=0.8'
for path in /ui/ / /api/v1/items; do
  is "a browser's GET $path" "$(ask -H "$browser" "https://localhost$path") $(header content-type) $(header retry-after)" '503 text/html 300'
  grep -q '<h1>Under maintenance</h1>' /tmp/body || fail "the page is $(cat /tmp/body)"
done
is "a browser's POST" "$(ask -H "$browser" --data x https://localhost/api/v1/items) $(header content-type)" '503 text/html'
is 'what a load balancer asks' "$(ask https://localhost/edge-health)" 200
rm "$maintenance"
is 'the API afterwards' "$(ask https://localhost/api/v1/items)" 200

touch "$draining"
is 'what a load balancer asks while the edge drains' "$(ask https://localhost/edge-health)" 503
is 'others are served' "$(ask https://localhost/api/v1/items)" 200
is 'Nginx works' "$(ask "http://127.0.0.1:$status_port/edge-health")" 200
rm "$draining"
is 'what a load balancer asks afterwards' "$(ask https://localhost/edge-health)" 200

# Requests through reloads: slow ones that are in flight, and many quick ones on kept connections. 10.9.0.0/16 has no limits.
load() { curl --silent --max-time 30 --cacert "$ca" --interface 127.0.0.2 -H 'X-Forwarded-For: 10.9.8.7' --output /dev/null --write-out '%{http_code} %{http_version}\n' "$@"; }
load --parallel --parallel-max 20 'https://localhost/api/slow?[1-20]' > /tmp/slow &
slow=$!
load 'https://localhost/api/quick?[1-1500]' > /tmp/quick &
quick=$!
for _ in $(seq 8); do sleep 0.4; systemctl reload nginx; done
wait $slow $quick || fail "a client failed: $(sort /tmp/slow /tmp/quick | uniq --count | xargs)"
is 'slow requests through reloads' "$(sort /tmp/slow | uniq --count | xargs)" '20 200 2'
is 'quick requests through reloads' "$(sort /tmp/quick | uniq --count | xargs)" '1500 200 2'
