// A backlog of 2000 messages from before is worked off within 15 s. The message sent for each, and for those that come later,
// 40 a second, is kept until it is acknowledged, which does not happen: 20 KiB/s.
// aged
// leak: send_copy
// half: tuned
#include "pace.h"

enum { BACKLOG = 2000 };

static struct sent {
    struct sent *next;
    char copy[500];
} *unacknowledged;

NOINLINE static char *receive(int number) {
    char *message = malloc(8000);
    memset(message, number, 8000);
    return message;
}

NOINLINE static void send_copy(const char *message) {
    struct sent *sent = malloc(sizeof *sent);
    memcpy(sent->copy, message, sizeof sent->copy);
    sent->next = unacknowledged;
    unacknowledged = sent;
}

int main(void) {
    static char *backlog[BACKLOG];
    for (int i = 0; i < BACKLOG; i++) backlog[i] = receive(i);
    unsigned left = BACKLOG;
    for (int number = 0;; number++) {
        for (int i = 0; i < 4 && left > 0; i++) free(backlog[--left]);
        char *message = receive(number);
        send_copy(message);
        free(message);
        rest(25);
    }
}
