// A backlog from before, 30,000 messages of 1 KiB, that gets shorter by 150 a second, while 30 new ones a second are
// each put off by 5 to 15 s. Bound: the backlog, and 450 messages.
// aged
// innocent
// half: tuned
#include "pace.h"

enum { BACKLOG = 30000, MOST = 1000, SIZE = 1000 };

static struct message {
    double until;
    char text[SIZE];
} *backlog[BACKLOG], *put_off[MOST];

NOINLINE static struct message *receive(void) {
    struct message *message = malloc(sizeof *message);
    message->until = now() + 5 + below(1000) / 100.0;
    memset(message->text, 1, SIZE);
    return message;
}

NOINLINE static void send_due(void) {
    for (int i = 0; i < MOST; i++) {
        if (!put_off[i] || put_off[i]->until > now()) continue;
        free(put_off[i]);
        put_off[i] = NULL;
    }
}

int main(void) {
    for (int i = 0; i < BACKLOG; i++) backlog[i] = receive();
    unsigned left = BACKLOG;
    for (;;) {
        for (int i = 0; i < 5 && left > 0; i++) free(backlog[--left]);
        send_due();
        int slot = 0;
        while (put_off[slot]) slot++;
        put_off[slot] = receive();
        rest(33);
    }
}
