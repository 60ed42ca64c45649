#!/bin/bash
# Instances that fail are taken out within 15 s and come back. Arguments: the CA's certificate, the fragments' folder, the state file.
set -euo pipefail
ca=$1 fragments=$2 state=$3
fail() { echo "wrong: $*" >&2; journalctl --unit belvedere-upstreams --lines 20 --output cat >&2; exit 1; }
ports() { for _ in $(seq 12); do curl --silent --max-time 10 --cacert "$ca" https://localhost/api/ | python3 -c 'import json, sys; print(json.load(sys.stdin)["port"])'; done | sort -u | xargs; }
within() {  # within SECONDS PORTS what
  local deadline=$((SECONDS + $1))
  until [ "$(ports)" = "$2" ]; do
    [ $SECONDS -lt $deadline ] || fail "$3: requests go to $(ports), not to $2"
    sleep 0.5
  done
  echo "$3: after at most $((SECONDS - deadline + $1)) s"
}
trap 'echo 200 > /run/instance-8201; echo 200 > /run/instance-8202; rm -f $fragments/api/three.json; sed -i s/true/false/ $fragments/api/*.json' EXIT

within 15 '8201 8202' 'both are in'
echo 503 > /run/instance-8201
within 15 8202 'one says that it is not ready'
grep -q '"api one:8201"' "$state" || fail "the state does not say so: $(cat "$state")"
journalctl --unit belvedere-upstreams --output cat | grep '"upstream_down"' | grep 'one:8201' > /dev/null || fail 'no event'
echo 200 > /run/instance-8201
within 15 '8201 8202' 'it is back'

kill -STOP "$(systemctl show --value --property MainPID instance-8202)"
within 30 8201 'one hangs'
kill -CONT "$(systemctl show --value --property MainPID instance-8202)"
within 15 '8201 8202' 'it is back'

echo 503 > /run/instance-8201
echo 503 > /run/instance-8202
sleep 16
[ "$(ports)" = '8201 8202' ] || fail 'both fail, and not both stay in'
echo 200 > /run/instance-8201
within 15 8201 'one of them is well again'
echo 200 > /run/instance-8202
within 15 '8201 8202' 'the other, too'

# Nginx follows before the program says so.
for _ in $(seq 50); do
  if journalctl --unit belvedere-upstreams --output cat | tail -1 | grep -q upstreams_applied; then break; fi
  sleep 0.1
done
reloads=$(journalctl --unit belvedere-upstreams --output cat | grep -c upstreams_applied)
sed -i 's/"drain": false/"drain": true/' "$fragments/api/two.json"
within 5 8201 'a host drains'
echo '{' > "$fragments/api/three.json"
sleep 2
sed -i 's/"drain": true/"drain": false/' "$fragments/api/two.json"
within 5 '8201 8202' 'it is back, whatever nonsense stands beside it'
rm "$fragments/api/three.json"
sleep 7
[ $(($(journalctl --unit belvedere-upstreams --output cat | grep -c upstreams_applied) - reloads)) = 2 ] || fail 'Nginx was reloaded without a change'

# Without a running program Nginx goes on, and starts again, with what it had.
systemctl stop belvedere-upstreams
systemctl restart nginx
[ "$(ports)" = '8201 8202' ] || fail 'a restart forgot the upstreams'
systemctl start belvedere-upstreams
