// Reads lines with getline, whose buffer libc allocates, and forgets every tenth copy of one.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *(*volatile duplicate)(const char *) = strdup;

__attribute__((noinline)) static void forget_line(const char *line) {
    char *volatile copy = malloc(strlen(line) + 200);
    strcpy(copy, line);
    char *volatile other = duplicate(line);
    free(other);
}

__attribute__((noinline)) static void read_some(FILE *in) {
    char *line = NULL;
    size_t room = 0;
    for (int i = 0; i < 10 && getline(&line, &room, in) > 0; i++)
        if (i == 9)
            forget_line(line);
    free(line);
}

int main(void) {
    puts("running");
    fflush(stdout);
    for (;;) {
        FILE *in = fopen("/proc/self/status", "r");
        if (!in)
            return 1;
        read_some(in);
        fclose(in);
        usleep(2000);
    }
}
