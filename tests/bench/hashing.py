"""Raw bcrypt: hashes for some seconds, and prints how many a second: hashing.py COST SECONDS."""

import sys
import time

import bcrypt

cost, seconds = int(sys.argv[1]), float(sys.argv[2])
hashed = bcrypt.hashpw(b"warm-up", bcrypt.gensalt(cost))
begun, count = time.perf_counter(), 0
while time.perf_counter() - begun < seconds:
    bcrypt.checkpw(b"a password", hashed)
    count += 1
print(count / (time.perf_counter() - begun))
