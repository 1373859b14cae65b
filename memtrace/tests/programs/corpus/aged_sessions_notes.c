// 3000 sessions of 4 KiB that have been there for long, and stay. With each of their requests, 30 a second, a note is
// added to one of them that nobody ever takes away: 6 KiB/s.
// aged
// leak: add_note
// half: measured
#include "pace.h"

enum { SESSIONS = 3000 };

static struct note {
    struct note *next;
    char text[190];
} *notes[SESSIONS];
static char *sessions[SESSIONS];

NOINLINE static char *log_in(int number) {
    char *session = malloc(4096);
    memset(session, number, 4096);
    return session;
}

NOINLINE static void add_note(unsigned session) {
    struct note *note = malloc(sizeof *note);
    snprintf(note->text, sizeof note->text, "%f", now());
    note->next = notes[session];
    notes[session] = note;
}

NOINLINE static size_t answer(unsigned session) {
    char *text = malloc(100 + below(3000));
    text[0] = sessions[session][below(4096)];
    size_t length = text[0] != 0;
    free(text);
    return length;
}

int main(void) {
    size_t sum = 0;
    for (int i = 0; i < SESSIONS; i++) sessions[i] = log_in(i);
    for (;;) {
        unsigned session = below(SESSIONS);
        sum += answer(session);
        add_note(session);
        rest(sum ? 33 : 34);
    }
}
