// A pool of at most twelve connections (socket pairs) with two buffers each, opened as the load needs them in the first
// 24 seconds and used again for ever. Bound: twelve.
// innocent
// half: tuned
#include "pace.h"
#include <sys/socket.h>

enum { MOST = 12 };

struct connection {
    int ends[2];
    char *in, *out;
};

static struct connection *pool[MOST];

NOINLINE static struct connection *open_connection(void) {
    struct connection *connection = malloc(sizeof *connection);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, connection->ends) != 0) exit(1);
    connection->in = malloc(16384);
    connection->out = calloc(1, 8192);
    return connection;
}

NOINLINE static long query(struct connection *connection, const char *text) {
    size_t length = (size_t)snprintf(connection->out, 8192, "select %s", text);
    if (write(connection->ends[0], connection->out, length) != (ssize_t)length) return -1;
    return read(connection->ends[1], connection->in, 16384);
}

int main(void) {
    long rows = 0;
    for (;;) {
        double load = now() * 0.5;
        for (unsigned i = 0; i < MOST && i <= load; i++) {
            if (!pool[i]) pool[i] = open_connection();
            char *text = malloc(50 + below(500));
            snprintf(text, 50, "%ld", rows);
            rows += query(pool[i], text);
            free(text);
        }
        rest(50);
    }
}
