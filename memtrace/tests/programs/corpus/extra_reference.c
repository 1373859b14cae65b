// Reference counts, and one way in ten on which one is taken twice: those messages are never freed. 300 a second.
// leak: message_new
// half: tuned
#include "pace.h"

struct message {
    int references;
    char body[800];
};

NOINLINE static struct message *message_new(void) {
    struct message *message = malloc(sizeof *message);
    message->references = 1;
    memset(message->body, 3, sizeof message->body);
    return message;
}

static struct message *take(struct message *message) {
    message->references++;
    return message;
}

static void put(struct message *message) {
    if (--message->references == 0) free(message);
}

NOINLINE static void route(struct message *message, unsigned kind) {
    struct message *mine = take(message);
    // A broadcast takes one for itself, though it has one.
    if (kind == 0) mine = take(mine);
    mine->body[kind]++;
    put(mine);
}

int main(void) {
    for (;;) {
        for (int i = 0; i < 3; i++) {
            struct message *message = message_new();
            route(message, below(10));
            put(message);
        }
        rest(10);
    }
}
