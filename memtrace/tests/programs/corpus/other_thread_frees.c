// One thread allocates, another frees: messages go through a pipe and wait there for up to a second. Bound: 200
// messages.
// innocent
// half: tuned
#include "pace.h"
#include <pthread.h>

struct message {
    unsigned number;
    char text[900];
};

static int channel[2];

NOINLINE static struct message *compose(unsigned number) {
    struct message *message = malloc(sizeof *message);
    message->number = number;
    snprintf(message->text, sizeof message->text, "number %u", number);
    return message;
}

static void *reader(void *nothing) {
    struct message *message;
    while (read(channel[0], &message, sizeof message) == sizeof message) {
        // Now and then it takes a pause, and what has come meanwhile goes at once.
        if (message->number % 200 == 0) rest(1000);
        free(message);
    }
    return nothing;
}

int main(void) {
    pthread_t thread;
    if (pipe(channel) != 0) return 1;
    pthread_create(&thread, NULL, reader, NULL);
    for (unsigned number = 0;; number++) {
        struct message *message = compose(number);
        if (write(channel[1], &message, sizeof message) != sizeof message) return 1;
        rest(5);
    }
}
