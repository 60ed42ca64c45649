#!/bin/bash
# What the edge does to who sends too much. Argument: the CA's certificate.
# The service orders takes 8 requests at once, 4 of one address. Its route /orders/ lets in 5 requests of an address at once, and then one each 10 s. 127.0.0.2 is a trusted proxy that names the client.
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

# Bodies that hardly come hold a service's places. No address gets many, so others are served; 10.9.0.0/16 has no limits, and may.
slow() {  # slow CLIENT COUNT: begin so many requests, print how many were refused at once, and what somebody else gets meanwhile
  python3 - "$ca" "$1" "$2" <<'P'
import collections, select, socket, ssl, sys, time
ca, client, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.create_default_context(cafile=ca)
context.maximum_version = ssl.TLSVersion.TLSv1_2  # no tickets after the handshake: what can be read is an answer
def begin(client, head):
    plain = socket.create_connection(("127.0.0.1", 443), timeout=10, source_address=("127.0.0.2", 0))
    connection = context.wrap_socket(plain, server_hostname="localhost")
    connection.sendall(f"{head}\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n".encode())
    return connection
slow = []
for _ in range(count):
    slow.append(begin(client, "POST /orders HTTP/1.1"))
    slow[-1].sendall(b"Content-Length: 1000\r\n\r\nx")
time.sleep(2)  # a busy machine takes them up late
other = begin("198.51.100.77", "GET /orders HTTP/1.1")
other.sendall(b"Connection: close\r\n\r\n")
others = other.recv(12).decode()
answered = select.select(slow, [], [], 0)[0]
print(collections.Counter(one.recv(12).decode() for one in answered)["HTTP/1.1 503"], others)
P
}
is 'slow bodies of one address' "$(slow 198.51.100.9 12)" '8 HTTP/1.1 200'
is 'slow bodies of a network without limits' "$(slow 10.9.8.7 12)" '4 HTTP/1.1 503'

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
