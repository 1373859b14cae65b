// Lines of a journal that nobody reads are kept until the program, whose work is done after 56 seconds, frees them in main.
// leak: note_line
// ends
// half: measured
#include "pace.h"

struct line {
    struct line *next;
    char text[300];
};

static struct line *journal;

NOINLINE static void note_line(unsigned number) {
    struct line *line = malloc(sizeof *line);
    snprintf(line->text, sizeof line->text, "step %u after %.1f s", number, now());
    line->next = journal;
    journal = line;
}

int main(void) {
    for (unsigned number = 0; now() < 56; number++) {
        note_line(number);
        rest(15);
    }
    while (journal) {
        struct line *next = journal->next;
        free(journal);
        journal = next;
    }
    return 0;
}
