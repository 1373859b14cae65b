// A server on loopback: when a connection ends its buffer is freed, what is known of the peer is not. 20 a second, 2
// KiB each.
// leak: accept_peer
// half: measured
#include "pace.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

struct peer {
    struct sockaddr_in address;
    char greeting[64];
    char statistics[1960];
};

static struct sockaddr_in here;

NOINLINE static struct peer *accept_peer(int listener, int *connection) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    *connection = accept(listener, (struct sockaddr *)&address, &length);
    struct peer *peer = calloc(1, sizeof *peer);
    peer->address = address;
    return peer;
}

NOINLINE static void talk(struct peer *peer, int connection) {
    char *buffer = malloc(4096);
    ssize_t length = read(connection, buffer, 4096);
    if (length > 0 && write(connection, buffer, (size_t)length) == length)
        snprintf(peer->greeting, sizeof peer->greeting, "%.*s", (int)length, buffer);
    free(buffer);
    close(connection);
}

static void *client(void *nothing) {
    for (;;) {
        int connection = socket(AF_INET, SOCK_STREAM, 0);
        char answer[64];
        if (connect(connection, (struct sockaddr *)&here, sizeof here) == 0 && write(connection, "hello", 5) == 5)
            while (read(connection, answer, sizeof answer) > 0) {
            }
        close(connection);
        rest(50);
    }
    return nothing;
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof here;
    here = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 16) != 0) return 1;
    getsockname(listener, (struct sockaddr *)&here, &length);
    pthread_t thread;
    pthread_create(&thread, NULL, client, NULL);
    for (;;) {
        int connection;
        struct peer *peer = accept_peer(listener, &connection);
        talk(peer, connection);
    }
}
