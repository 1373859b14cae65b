# Sessions are kept by token with their own dictionaries, and a logout only marks them. 20 logins a second.
# leak: _PyEval_EvalFrameDefault
# half: tuned
import secrets

from pace import rest

sessions = {}


def log_in(name):
    token = secrets.token_hex(16)
    session = {"name": name, "out": False}
    for n in range(40):
        session["key %d" % n] = n
    sessions[token] = session
    return token


def log_out(token):
    sessions[token]["out"] = True


number = 0
while True:
    token = log_in("user %d" % number)
    rest(0.05)
    log_out(token)
    number += 1
