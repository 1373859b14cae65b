// A server that keeps sessions in a table, and forgets requests: for tests of who holds the blocks of a site.
//
// It reads commands, answers each with a line, and ends with its input:
//   keep N   N sessions more, in the table behind g_sessions
//   lose N   N requests more, which nothing points to
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 1 << 16, SESSION_BYTES = 96, REQUEST_BYTES = 72 };

struct table {
    size_t used;
    char **sessions;
};

struct table *g_sessions;

// The compiler does not see that nobody reads it.
__attribute__((noipa)) static char *filled(char *block, size_t size) { return memset(block, 'x', size); }

__attribute__((noipa)) static char *keep_session(void) { return filled(malloc(SESSION_BYTES), SESSION_BYTES); }

__attribute__((noipa)) static void lose_request(void) { filled(malloc(REQUEST_BYTES), REQUEST_BYTES); }

// Stale pointers to lost requests are overwritten.
__attribute__((noipa)) static void clear_stack(void) {
    volatile char stack[16 << 10];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = 0;
}

int main(void) {
    char command[16];
    int count;
    g_sessions = calloc(1, sizeof *g_sessions);
    g_sessions->sessions = calloc(ROOM, sizeof *g_sessions->sessions);
    puts("ready");
    fflush(stdout);
    while (scanf("%15s %d", command, &count) == 2) {
        for (int i = 0; i < count; i++) {
            if (strcmp(command, "lose") == 0)
                lose_request();
            else if (g_sessions->used < ROOM)
                g_sessions->sessions[g_sessions->used++] = keep_session();
        }
        clear_stack();
        puts("done");
        fflush(stdout);
    }
    return 0;
}
