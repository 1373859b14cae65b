// Allocates in two functions, one after the other: 100 blocks of 1,000 bytes each, which it keeps. With an argument it waits
// for a line on standard input before each and before its end, and says when it is done.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCKS = 100, BYTES = 1000 };
static void *volatile kept[2 * BLOCKS];

__attribute__((noinline)) static void first_phase(void) {
    for (int i = 0; i < BLOCKS; i++)
        kept[i] = malloc(BYTES);
}

__attribute__((noinline)) static void second_phase(void) {
    for (int i = BLOCKS; i < 2 * BLOCKS; i++)
        kept[i] = malloc(BYTES);
}

static void wait_for_a_line(void) {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n')
        ;
}

static void say(const char *word, size_t length) {
    if (write(STDOUT_FILENO, word, length) < 0)
        _exit(1);
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        say("ready\n", 6);
        wait_for_a_line();
    }
    first_phase();
    if (argc > 1) {
        say("first\n", 6);
        wait_for_a_line();
    }
    second_phase();
    if (argc > 1) {
        say("second\n", 7);
        wait_for_a_line();
    }
    return 0;
}
