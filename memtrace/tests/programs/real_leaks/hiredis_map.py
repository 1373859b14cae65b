# package: hiredis of PyPI, old 3.1.0, fixed 3.1.1
# leak: createDecodedString
"""A page that reads a profile ten times a second, which redis keeps as a hash. usage: hiredis_map.py PORT

Over RESP3, redis answers HGETALL with a map. hiredis put each value into a dict, which takes a reference of its
own, and never gave up the first one: no value of a map was ever freed.
https://github.com/redis/hiredis-py/issues/175, fixed by https://github.com/redis/hiredis-py/pull/204
"""

import socket
import sys
import time

import hiredis

server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
reader = hiredis.Reader()


def ask(*command):
    server.sendall(hiredis.pack_command(command))
    while (reply := reader.gets()) is False:
        reader.feed(server.recv(65536))
    return reply


ask("HELLO", "3")
for field in range(10):
    ask("HSET", "profile", f"field {field}", str(field) * 2000)
# What is no map is freed, by the same function.
ask("SET", "greeting", "hello " * 500)
print("running", flush=True)
pages = []
while True:
    profile = ask("HGETALL", "profile")
    greeting = ask("GET", "greeting")
    # The last pages stay: a cache that is full after two seconds.
    pages = [*pages[-20:], b"".join([greeting, *profile.values()])]
    time.sleep(0.1)
