// The configuration is read anew every two seconds. The old one is freed at its root only: 40 sections of it stay.
// leak: load_section
// half: tuned
#include "pace.h"

struct section {
    struct section *next;
    char *body;
    char name[40];
};

struct config {
    struct section *sections;
    unsigned version;
};

NOINLINE static struct section *load_section(unsigned number) {
    struct section *section = malloc(sizeof *section);
    snprintf(section->name, sizeof section->name, "section-%u", number);
    section->body = malloc(300 + number * 20);
    memset(section->body, (int)number, 300);
    return section;
}

NOINLINE static struct config *load(unsigned version) {
    struct config *config = malloc(sizeof *config);
    *config = (struct config){NULL, version};
    for (unsigned i = 0; i < 40; i++) {
        struct section *section = load_section(i);
        section->next = config->sections;
        config->sections = section;
    }
    return config;
}

int main(void) {
    struct config *config = load(0);
    for (unsigned version = 1;; version++) {
        rest(2000);
        struct config *newer = load(version);
        free(config);
        config = newer;
    }
}
