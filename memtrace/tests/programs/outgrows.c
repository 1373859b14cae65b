// Outgrows what it was when memtrace looked at it first: a command a line, and "ok" after each.
//
//   keep N           allocates so many blocks of 16 bytes, and keeps them
//   drop             frees these
//   load FILE        loads a library and calls its `late`
//   areas N          maps so many ranges of anonymous memory in which code may run, none beside another
//   churn N FILE     loads and unloads a library so often
//   turns N FILE FILE  loads a plug-in, keeps what it makes and unloads it, then the other, of which it frees all, so often
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void **kept;
static unsigned kept_count;

static void keep(unsigned number) {
    // Not from the heap: it is no block.
    kept = mmap(NULL, number * sizeof *kept, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (; kept_count < number; kept_count++) {
        kept[kept_count] = malloc(16);
    }
}

static void drop(void) {
    while (kept_count > 0) {
        free(kept[--kept_count]);
    }
}

static void load(const char *file) {
    void *library = dlopen(file, RTLD_NOW);
    void (*late)(void) = library ? (void (*)(void))dlsym(library, "late") : NULL;
    if (!late) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    late();
}

static void map_areas(unsigned number) {
    for (unsigned i = 0; i < number; i++) {
        char *area = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED || mprotect(area, 4096, PROT_READ) != 0) {
            perror("areas");
            exit(1);
        }
    }
}

static void churn(unsigned number, const char *file) {
    for (unsigned i = 0; i < number; i++) {
        void *library = dlopen(file, RTLD_NOW);
        if (!library) {
            fprintf(stderr, "%s\n", dlerror());
            exit(1);
        }
        dlclose(library);
    }
}

static void *make(const char *file, unsigned bytes) {
    void *library = dlopen(file, RTLD_NOW);
    void *(*make)(unsigned) = library ? (void *(*)(unsigned))dlsym(library, "make") : NULL;
    if (!make) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    void *block = make(bytes);
    dlclose(library);
    return block;
}

static void take_turns(unsigned number, const char *keeping, const char *freeing) {
    for (unsigned i = 0; i < number; i++) {
        void *volatile kept_block = make(keeping, 500);
        (void)kept_block;
        free(make(freeing, 700));
    }
}

int main(void) {
    char line[4096];
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        char file[2000] = "", other[2000] = "";
        unsigned number = 0;
        if (sscanf(line, "keep %u", &number) == 1) {
            keep(number);
        } else if (strncmp(line, "drop", 4) == 0) {
            drop();
        } else if (sscanf(line, "load %1999s", file) == 1) {
            load(file);
        } else if (sscanf(line, "areas %u", &number) == 1) {
            map_areas(number);
        } else if (sscanf(line, "churn %u %1999s", &number, file) == 2) {
            churn(number, file);
        } else if (sscanf(line, "turns %u %1999s %1999s", &number, file, other) == 3) {
            take_turns(number, file, other);
        } else {
            return 1;
        }
        printf("ok\n");
        fflush(stdout);
    }
    return 0;
}
