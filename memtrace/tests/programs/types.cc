// A program that knows the types of its blocks: objects of classes behind unique_ptr and shared_ptr, in vectors, lists, maps, in
// blocks of a pool; strings; text. It fills its heap before anybody looks, and prints how many there are of each.
//
// Without run-time types (-fno-rtti) it does the same.
//
// usage: types; prints one line of JSON and stays until its standard input closes.
#include <list>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace zoo {

struct Animal {
    virtual ~Animal() {}
    virtual long weight() const = 0;
    long kilos = 7;
};

struct Dog : Animal {
    long weight() const override { return kilos + 1; }
};

struct Cat : Animal {
    long weight() const override { return kilos + 2; }
    long lives = 9;
};

struct Fish : Animal {
    long weight() const override { return kilos + 3; }
};

struct Horse : Animal {
    long weight() const override { return kilos + 4; }
};

struct Sheep : Animal {
    long weight() const override { return kilos + 5; }
};

// It has a name with a buffer of its own.
struct Wolf : Animal {
    explicit Wolf(int number) : name("a wolf without any other name than number " + std::to_string(number)) {}
    long weight() const override { return kilos + 6; }
    std::string name;
};

// A second base lies further on in the same object.
struct Named {
    virtual ~Named() {}
    virtual const char *title() const { return "sir"; }
};

template <typename T> struct Keeper : Animal, Named {
    long weight() const override { return kilos + 7; }
    T keys = 0;
};

} // namespace zoo

namespace {

struct Ant : zoo::Animal {
    long weight() const override { return kilos + 8; }
};

enum { DOGS = 2000, CATS = 1900, FISH = 1800, HORSES = 1700, SHEEP = 1600, WOLVES = 1500, KEEPERS = 1400, ANTS = 1300, NUMBERS = 1200,
       ROWS = 1100, TEXTS = 1000, LONE = 300 };

std::vector<std::unique_ptr<zoo::Animal>> dogs, wolves, keepers;
std::vector<std::shared_ptr<zoo::Animal>> cats;
std::list<zoo::Fish> fish;
std::map<int, zoo::Horse> horses;
std::vector<zoo::Sheep> sheep;
std::list<long> numbers;
std::set<long> ordered;
// Of one element each.
std::vector<std::list<long>> lone_lists;
std::vector<std::set<long>> lone_sets;
std::vector<std::vector<int>> rows;
char *texts[TEXTS];
char *pool;

void fill() {
    dogs.reserve(DOGS);
    cats.reserve(CATS);
    wolves.reserve(WOLVES);
    keepers.reserve(KEEPERS);
    sheep.reserve(SHEEP + 100);
    rows.reserve(ROWS);
    lone_lists.reserve(LONE);
    lone_sets.reserve(LONE);
    for (int i = 0; i < DOGS; i++)
        dogs.emplace_back(new zoo::Dog);
    for (int i = 0; i < CATS; i++)
        cats.emplace_back(std::make_shared<zoo::Cat>());
    for (int i = 0; i < FISH; i++)
        fish.emplace_back();
    for (int i = 0; i < HORSES; i++)
        horses[i * 7919 % HORSES];
    for (int i = 0; i < SHEEP; i++)
        sheep.emplace_back();
    for (int i = 0; i < WOLVES; i++)
        wolves.emplace_back(new zoo::Wolf(i));
    for (int i = 0; i < KEEPERS; i++)
        keepers.emplace_back(new zoo::Keeper<long>);
    for (int i = 0; i < NUMBERS; i++) {
        numbers.push_back(i);
        ordered.insert(i * 7919 % NUMBERS);
    }
    for (int i = 0; i < LONE; i++) {
        lone_lists.emplace_back(1, i);
        lone_sets.emplace_back();
        lone_sets.back().insert(i);
    }
    for (int i = 0; i < ROWS; i++)
        rows.emplace_back(10 + i % 90, i);
    for (int i = 0; i < TEXTS; i++) {
        texts[i] = static_cast<char *>(malloc(100));
        memset(texts[i], 0, 100);
        snprintf(texts[i], 100, "%d is the number of a text of more than fifty characters", i);
    }
    // It begins with a header.
    pool = static_cast<char *>(calloc(ANTS + 1, 64));
    for (int i = 1; i <= ANTS; i++)
        new (pool + i * 64) Ant;
}

} // namespace

int main() {
    static char out[BUFSIZ];
    setvbuf(stdout, out, _IOLBF, sizeof out);
    fill();
    // Buffers of vectors: those of rows, and eight more.
    printf("{\"zoo::Dog\": [%d, 0], \"zoo::Cat\": [0, %d], \"zoo::Fish\": [0, %d], \"zoo::Horse\": [0, %d], \"zoo::Sheep\": [0, %d], "
           "\"zoo::Wolf\": [%d, 0], \"zoo::Keeper<long>\": [%d, 0], \"(anonymous namespace)::Ant\": [0, %d], "
           "\"std::_Sp_counted_ptr_inplace\": [%d, 0], \"list node with zoo::Fish at +16\": [%d, 0], "
           "\"tree node with zoo::Horse at +40\": [%d, 0], \"list node\": [%d, 0], \"tree node\": [%d, 0], "
           "\"string buffer\": [%d, 0], \"vector buffer\": [%d, 0], \"text\": [%d, 0]}\n",
           DOGS, CATS, FISH, HORSES, SHEEP, WOLVES, KEEPERS, ANTS, CATS, FISH, HORSES, NUMBERS + LONE, NUMBERS + LONE, WOLVES,
           ROWS + 8, TEXTS);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    // Nothing was left out by the compiler.
    return dogs[0]->weight() + cats[0]->weight() + wolves[0]->weight() + keepers[0]->weight() + texts[0][0] > 0 ? 0 : 1;
}
