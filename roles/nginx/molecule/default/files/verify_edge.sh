#!/bin/bash
# What a client sees of the edge. Arguments: the CA's certificate, and how many requests the API takes at once.
set -euo pipefail
ca=$1 in_flight=$2
ask() { curl --silent --max-time 10 --cacert "$ca" "$@"; }
status() { ask --output /dev/null --write-out '%{http_code}' "$@"; }
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }

body=$(ask --dump-header /tmp/head -H 'X-Request-Id: 00000000000000000000000000000bad' -H 'traceparent: 00-11111111111111111111111111111111-2222222222222222-01' \
  -H 'X-Forwarded-For: 6.6.6.6' -H 'Forwarded: for=6.6.6.6' https://localhost/api/v1/items?x=1)
id=$(tr -d '\r' < /tmp/head | sed -n 's/^x-request-id: //Ip')
[[ $id =~ ^[0-9a-f]{32}$ ]] || fail "the answer's request id is '$id'"
is 'request ids in the answer' "$(grep -ic '^x-request-id' /tmp/head)" 1
[ "$id" != 00000000000000000000000000000bad ] || fail "a client's request id was taken over"
python3 - "$id" "$body" <<'P'
import json, sys
id, body = sys.argv[1], json.loads(sys.argv[2])
headers = {name.lower(): value for name, value in body["headers"].items()}
assert body["path"] == "/api/v1/items?x=1", body
assert headers["x-request-id"] == id, headers
assert headers["traceparent"] == f"00-{id}-{id[:16]}-01", headers
assert headers["x-forwarded-for"] == "127.0.0.1", headers
assert headers["x-forwarded-proto"] == "https", headers
assert "forwarded" not in headers and headers.get("connection") != "close", headers
P
head -1 /tmp/head | grep -q '^HTTP/2 200' || fail "not HTTP/2: $(head -1 /tmp/head)"
for header in strict-transport-security x-content-type-options content-security-policy; do
  grep -iq "^$header:" /tmp/head || fail "no $header"
done
grep -iq '^server: nginx.$' /tmp/head || fail "the server tells its version: $(grep -i ^server: /tmp/head)"

# What a browser may load for an answer: what the service says, or else nothing.
policy() { ask --output /dev/null --write-out '%header{content-security-policy}' "$@"; }
is 'the policy of a page with its own' "$(policy https://localhost/openapi/api)" "default-src 'none'; style-src 'sha256-x'"
is 'the policy of anything else' "$(policy https://localhost/api/)" "default-src 'none'; frame-ancestors 'none'"
is 'the policy of an error' "$(policy https://localhost/nothing)" "default-src 'none'; frame-ancestors 'none'"

# The list of the services' documents names those that have one, and comes with its style.
ask --fail https://localhost/docs/ > /tmp/docs
is 'documents in the list' "$(grep -o 'href="/openapi/[a-z.]*"' /tmp/docs | sort | xargs)" \
  'href=/openapi/api href=/openapi/api.json href=/openapi/auth href=/openapi/auth.json'
is 'the style of the list' "$(ask --output /dev/null --write-out '%{http_code} %{content_type}' https://localhost/docs/ops.css)" '200 text/css'
is 'what the list may load' "$(policy https://localhost/docs/)" "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"

# Errors that Nginx makes.
problem() {  # problem STATUS curl-arguments...
  local want=$1; shift
  ask --dump-header /tmp/head --output /tmp/body "$@" || fail "no answer to $*"
  head -1 /tmp/head | grep -q " $want" || fail "$*: $(head -1 /tmp/head), not $want"
  grep -iq '^content-type: application/problem+json' /tmp/head || fail "$*: $(grep -i ^content-type /tmp/head)"
  is "request ids of $*" "$(grep -ic '^x-request-id' /tmp/head)" 1
  python3 - "$want" <<'P'
import json, sys
problem = json.load(open("/tmp/body"))
head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in open("/tmp/head"))}
assert problem["status"] == int(sys.argv[1]), problem
assert problem["request_id"] == head["x-request-id"], (problem, head)
assert {"type", "title", "detail"} <= set(problem), problem
P
}
problem 404 https://localhost/nothing
for path in livez readyz metrics; do problem 404 https://localhost/$path; done
head -c 70000 /dev/zero > /tmp/large
problem 413 -H 'Content-Type: application/json' --data-binary @/tmp/large https://localhost/api/v1/items
problem 414 --http1.1 "https://localhost/api/$(head -c 8300 /dev/zero | tr '\0' a)"
problem 431 --http1.1 -H "X-Large: $(head -c 8300 /dev/zero | tr '\0' a)" https://localhost/api/
problem 400 --http1.1 -H 'Transfer-Encoding: nonsense' --data x https://localhost/api/
problem 400 --http1.1 -H "Host: a b" https://localhost/api/
problem 503 https://localhost/login  # auth was announced by nobody
grep -iq '^retry-after: 2' /tmp/head || fail '503 without Retry-After'
is "a problem of the service itself" "$(status https://localhost/api/problem)" 418

# What a service cannot take at once is refused at once. (10.9.0.0/16 is the network without limits for each address.)
statuses=$(ask --interface 127.0.0.2 -H 'X-Forwarded-For: 10.9.8.7' --parallel --parallel-max 120 --output /dev/null --write-out '%{http_code} %header{retry-after}\n' "https://localhost/api/slow?[1-$((in_flight + 10))]" \
  | sort | uniq --count | xargs)
is 'more requests than the service takes' "$statuses" "$in_flight 200 10 503 2"

# A request that may have had an effect is not sent twice; one that had none is.
rm -f /run/instance-died
problem 502 --data die https://localhost/api/v1/items
is 'attempts of a POST' "$(wc -l < /run/instance-died)" 1

# Where nobody can have begun, because no instance runs, the answer says so: to ask again is safe.
systemctl stop instance-8201 instance-8202
problem 503 https://localhost/api/v1/items
problem 503 --data x https://localhost/api/v1/items
grep -iq '^retry-after: 2' /tmp/head || fail 'no instance, and no Retry-After'
for port in 8201 8202; do systemd-run --quiet --unit=instance-$port python3 /usr/local/lib/instance.py $port; done
for _ in $(seq 50); do
  [ "$(status https://localhost/api/v1/items)" = 200 ] && break
  sleep 0.2
done
is 'the path of port 80' "$(curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}' http://localhost/x?y)" '308 https://localhost/x?y'
is 'the health page' "$(ask https://localhost/edge-health)" ok
curl --silent --tls-max 1.1 --cacert "$ca" https://localhost/edge-health && fail 'TLS 1.1 was accepted'

# The log names the route and the instance. Failed and slow requests go to the journal whole, and of the others one in a hundred.
sleep 2
ask https://localhost/api/logged > /dev/null
sleep 2
line=$(tail -1 /var/log/nginx/access.log)
[[ $line =~ ^[^\ ]+\ edge\ /api/\ GET\ 200\ [0-9.]+\ [0-9]+\ api\ \"127.0.0.1:820[12]\"\ \"200\"\ \"[0-9.]+\"\ [0-9a-f]{32}\ 127.0.0.1$ ]] || fail "the log says $line"
journalctl --identifier nginx --output cat | grep '"status":502' > /dev/null || fail 'the journal does not know of the 502'
journalctl --identifier nginx --output cat | tail -1 | python3 -c 'import json, sys; assert json.loads(sys.stdin.read())["event"] == "request"'
journalctl --identifier nginx --output cat | grep '"status":404.*"weight":1}' > /dev/null || fail 'the journal does not know of a 404'
ask --max-time 60 --rate 50/s --output /dev/null 'https://localhost/openapi/none?[1-300]'
ask --output /dev/null 'http://localhost/?[1-1000]'
sleep 2
# A sample may have none of them, which is few enough.
good=$(journalctl --identifier nginx --output cat | grep -E '"status":(200|308),"seconds":0') || true
[ "$(wc -l <<< "$good")" -lt 60 ] || fail "of good, fast requests the journal has $(wc -l <<< "$good")"
grep -v '"weight":100}' <<< "$good" | grep . && fail 'a line of the sample does not say how many requests it stands for'
[ "$(journalctl --identifier nginx --output cat | grep -c '"status":404')" -ge 300 ] || fail 'the journal has lost errors'

# The log is a buffer of a certain size.
inode=$(stat --format %i /var/log/nginx/access.log)
systemctl start nginx-log-size.service
[ "$(stat --format %i /var/log/nginx/access.log)" = "$inode" ] || fail 'a small log was begun anew'
head --bytes 1200000 /dev/zero | tr '\0' '\n' >> /var/log/nginx/access.log
systemctl start nginx-log-size.service
[ "$(stat --format %s /var/log/nginx/access.log)" -lt 100000 ] || fail 'a big log was not begun anew'
ask https://localhost/api/logged > /dev/null
sleep 2
tail -1 /var/log/nginx/access.log | grep -q ' edge /api/ GET 200 ' || fail 'Nginx does not write to the new log'
exit 0
