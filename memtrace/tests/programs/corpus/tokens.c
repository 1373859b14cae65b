// Tokens that are valid for 15 seconds, swept every five: 25 a second, in a list by time. Bound: those of 20 seconds,
// 500.
// innocent
// half: measured
#include "pace.h"

struct token {
    struct token *next;
    double issued;
    char secret[240];
};

static struct token *first, **last = &first;

NOINLINE static void issue(void) {
    struct token *token = malloc(sizeof *token);
    token->next = NULL;
    token->issued = now();
    for (int i = 0; i < 240; i++) token->secret[i] = (char)below(256);
    *last = token;
    last = &token->next;
}

NOINLINE static void sweep(void) {
    while (first && first->issued < now() - 15) {
        struct token *token = first;
        first = token->next;
        if (!first) last = &first;
        free(token);
    }
}

int main(void) {
    for (unsigned tick = 1;; tick++) {
        issue();
        if (tick % 125 == 0) sweep();
        rest(40);
    }
}
