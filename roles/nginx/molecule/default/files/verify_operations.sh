#!/bin/bash
# What operators and other hosts see. Arguments: CA, certificate, key, and the ports of ops, tools, ingest and metrics.
set -euo pipefail
ca=$1 certificate=$2 key=$3 ops=$4 tools=$5 ingest=$6 metrics=$7
# 000 where nobody answers is an answer too: the caller compares it.
status() { curl --silent --max-time 10 --output /tmp/body --dump-header /tmp/head --write-out '%{http_code}' --cacert "$ca" "$@" || true; }
mutual() { status --cert "$certificate" --key "$key" "$@"; }
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3: $(cat /tmp/body)"; }
user="ops:$OPS_PASSWORD"

is 'ops without a password' "$(status "https://localhost:$ops/")" 401
grep -q '<form id="login">' /tmp/body || fail 'who is not logged in is not shown where to'
grep -iq '^www-authenticate: basic' /tmp/head && fail 'a browser would ask for the password'
for file in login.js ops.css; do is "$file without a login" "$(status "https://localhost:$ops/$file")" 200; done
for file in ops.js index.html session/check; do
  [[ $(status "https://localhost:$ops/$file") = 40[14] ]] || fail "$file is had without a login"
done
is 'a question with the cookie' "$(status -b '__Host-operations=good' "https://localhost:$ops/")" 200
is 'one with a bad cookie' "$(status -b '__Host-operations=bad' "https://localhost:$ops/prometheus/")" 401
is 'a question that nobody can answer' "$(status -b '__Host-operations=away' "https://localhost:$ops/prometheus/")" 503
grep -iq '^retry-after: ' /tmp/head || fail 'nobody says when to come back'
is 'a tool, with the cookie and a name that is another' "$(status -u "somebody:x" -b 'mine=1; __Host-operations=good; other=2' "https://localhost:$ops/prometheus/-/healthy")" 200
python3 - <<'P'
import json
headers = {name.lower(): value for name, value in json.load(open("/tmp/body"))["headers"].items()}
assert headers["x-webauth-user"] == "ada@example.net", headers
assert headers["cookie"] == "mine=1; other=2", headers
P
is 'a login' "$(status --json '{}' -b '__Host-operations=good' "https://localhost:$ops/session")" 200
is 'the page that asks for the password' "$(status "https://localhost:$ops/password")" 401
grep -iq '^www-authenticate: basic' /tmp/head || fail 'a browser would not ask for the password'
is 'that page, with it' "$(status -u "$user" "https://localhost:$ops/password")" 302
is 'a login with another method' "$(status -X PUT "https://localhost:$ops/session")" 403
is 'ops with a wrong one' "$(status -u ops:wrong "https://localhost:$ops/prometheus/")" 401
is 'the landing page' "$(status -u "$user" "https://localhost:$ops/")" 200
grep -q 'href="/prometheus/"' /tmp/body || fail 'the landing page does not link to Prometheus'
grep -q '<noscript>' /tmp/body || fail 'the landing page needs JavaScript'
grep -A1 'Grafana' /tmp/body | grep -q 'its origin cannot be reached' || fail 'the landing page does not say what was left out'
grep -iq '^content-security-policy: default-src .self.' /tmp/head || fail 'the landing page has no policy'
grep -q '<script>' /tmp/body && fail 'the landing page has an inline script'
is 'the runbooks without a password' "$(status "https://localhost:$ops/runbooks.html")" 401
is 'the runbooks' "$(status -u "$user" "https://localhost:$ops/runbooks.html")" 200
grep -q '<article id="HostDown">' /tmp/body || fail 'there is no runbook for HostDown'
grep -q 'href="#CertificateExpires"' /tmp/body || fail 'a runbook does not link to another'
is 'its script' "$(status -u "$user" "https://localhost:$ops/ops.js")" 200
is 'a tool, through two proxies' "$(status -u "$user" -H 'X-WEBAUTH-USER: somebody' "https://localhost:$ops/prometheus/-/healthy?x=1")" 200
python3 - <<'P'
import json
body = json.load(open("/tmp/body"))
headers = {name.lower(): value for name, value in body["headers"].items()}
assert body["path"] == "/prometheus/-/healthy?x=1", body
assert "authorization" not in headers, "the password went on to the tool"
assert headers["x-webauth-user"] == "ops", headers
assert headers["host"].startswith("localhost:"), headers
P
sleep 1
journalctl --identifier nginx --output cat | grep '"event":"operations_request".*"user":"ops","route":"/prometheus/","method":"GET","status":200' > /dev/null ||
  fail 'the journal does not say who looked at Prometheus'
is 'a tool that does not run' "$(status -u "$user" "https://localhost:$ops/alertmanager/")" 503

is 'tools without a certificate' "$(status "https://localhost:$tools/prometheus/")" 400
is 'tools with one' "$(mutual "https://localhost:$tools/prometheus/")" 200
is 'a journal without a certificate' "$(status --data x "https://localhost:$ingest/upload")" 400
is 'a journal' "$(mutual --data x "https://localhost:$ingest/upload")" 200
grep -q '"path": "/upload"' /tmp/body || fail "the journal went to $(cat /tmp/body)"
is 'a question to the journal' "$(mutual "https://localhost:$ingest/upload")" 403
is 'another path' "$(mutual --data x "https://localhost:$ingest/select/logsql/query")" 404
is 'metrics without a certificate' "$(status "https://localhost:$metrics/nginx")" 400
is 'metrics of an exporter that does not run' "$(mutual "https://localhost:$metrics/nginx")" 502
is 'other paths' "$(mutual "https://localhost:$metrics/")" 404
curl --silent --max-time 5 http://127.0.0.1:8080/stub_status | grep -q '^Active connections' || fail 'no stub_status'

# A certificate of the CA is not enough: only named hosts use the tools and read the metrics.
other=(--cert /root/other/host.crt --key /root/other/host.key)
is 'tools, asked by another host' "$(status "${other[@]}" "https://localhost:$tools/prometheus/")" 403
is 'metrics, asked by another host' "$(status "${other[@]}" "https://localhost:$metrics/nginx")" 403
is "another host's journal" "$(status "${other[@]}" --data x "https://localhost:$ingest/upload")" 200
