#!/bin/bash
# The certificate that clients see is the ACME server's, and a renewal changes it without a failed request. Argument: the webroot.
set -euo pipefail
webroot=$1
fail() { echo "wrong: $*" | cut -c -300 >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }
seen() { openssl s_client -connect 127.0.0.1:443 -servername edge.test </dev/null 2>/dev/null | openssl x509 -noout "$@"; }

curl --silent --cacert /etc/belvedere/tls/ca.crt https://localhost:15000/roots/0 > /tmp/root.pem
curl --silent --cacert /tmp/root.pem --output /dev/null https://edge.test/edge-health || fail "a client that trusts the ACME server does not trust the edge: $(seen -issuer)"
curl --silent --cacert /tmp/root.pem --output /dev/null https://www.edge.test/edge-health || fail 'the second name is not in it'
is 'who may read the key' "$(stat --dereference --format '%a %U' /etc/belvedere/edge/acme.key)" '600 root'

# As Debian's timer does, but at once. Clients ask all the while.
systemctl is-active --quiet certbot.timer || fail 'the timer does not run'
before=$(seen -serial)
for _ in $(seq 200); do curl --silent --cacert /tmp/root.pem --output /dev/null --write-out '%{http_code}\n' https://edge.test/edge-health || echo failed; done > /tmp/answers &
clients=$!
sed -i 's/^# renew_before_expiry.*/renew_before_expiry = 9999 days/' /etc/letsencrypt/renewal/edge.conf
grep -q '^renew_before_expiry' /etc/letsencrypt/renewal/edge.conf || sed -i '1i renew_before_expiry = 9999 days' /etc/letsencrypt/renewal/edge.conf
systemctl start certbot.service || { journalctl --unit certbot --lines 30 --output cat >&2; fail 'the renewal failed'; }
for _ in $(seq 50); do
  [ "$(seen -serial)" = "$before" ] || break
  sleep 0.1
done
[ "$(seen -serial)" != "$before" ] || { journalctl --unit certbot --lines 30 --output cat >&2; fail 'the edge serves the old certificate'; }
wait $clients
is 'requests during the renewal' "$(sort /tmp/answers | uniq --count | xargs)" '200 200'
sed -i '/^renew_before_expiry/d' /etc/letsencrypt/renewal/edge.conf

# Which edge is asked is not for the ACME server to know.
challenge=http://edge.test/.well-known/acme-challenge
mkdir -p "$webroot/.well-known/acme-challenge"
echo ours > "$webroot/.well-known/acme-challenge/ours"
is 'an answer of this edge' "$(curl --silent $challenge/ours)" ours
is 'an answer of another edge' "$(curl --silent $challenge/theirs)" theirs
is 'one that nobody has' "$(curl --silent --output /dev/null --write-out '%{http_code}' $challenge/none)" 404
is 'a question that another edge passed on' "$(curl --silent --output /dev/null --write-out '%{http_code}' -H 'X-Acme-Asked: yes' $challenge/theirs)" 404
is 'a way out' "$(curl --silent --path-as-is --output /dev/null --write-out '%{http_code}' $challenge/../../../../etc/passwd)" 400
is 'other paths' "$(curl --silent --output /dev/null --write-out '%{http_code}' http://edge.test/x)" 308
rm "$webroot/.well-known/acme-challenge/ours"
