// Three requests in a hundred are malformed, and then the copy of the message is not freed: 400 a second, 8 KiB/s.
// leak: parse_message
// half: tuned
#include "pace.h"

struct message {
    char *text;
    unsigned words;
};

NOINLINE static int parse_message(const char *input, struct message *message) {
    message->text = malloc(strlen(input) + 600);
    strcpy(message->text, input);
    message->words = 0;
    for (char *at = message->text; *at; at++) {
        if (*at == '?') return -1;
        message->words += *at == ' ';
    }
    return 0;
}

NOINLINE static unsigned handle(const char *input) {
    struct message message;
    // The caller cannot free what it was not given; the parser forgets to.
    if (parse_message(input, &message) != 0) return 0;
    unsigned words = message.words;
    free(message.text);
    return words;
}

int main(void) {
    unsigned long words = 0;
    for (;;) {
        for (int i = 0; i < 4; i++) words += handle(below(100) < 3 ? "give me ? of it" : "give me ten of it");
        rest(10);
    }
}
