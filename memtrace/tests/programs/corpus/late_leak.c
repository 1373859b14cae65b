// In balance for 17 seconds; then the other side stops answering, and what waits for an answer is kept: 50 KiB/s.
// leak: send_with_retry
// half: tuned
#include "pace.h"

enum { MOST = 20000 };

struct sent {
    unsigned id;
    char copy[1020];
};

static struct sent *unanswered[MOST];
static unsigned count;

NOINLINE static void send_with_retry(unsigned id) {
    struct sent *sent = malloc(sizeof *sent);
    sent->id = id;
    memset(sent->copy, (int)id, sizeof sent->copy);
    if (count < MOST) unanswered[count++] = sent;
}

NOINLINE static void take_answers(void) {
    while (count > 0) free(unanswered[--count]);
}

int main(void) {
    for (unsigned id = 0;; id++) {
        send_with_retry(id);
        if (id % 10 == 0 && now() < 17) take_answers();
        rest(20);
    }
}
