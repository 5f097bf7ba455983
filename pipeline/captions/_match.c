/* An exact index over queries: which of them occur in a text as consecutive tokens; see match.py, which has the
 * rule and does the same in Python where this module is not built.
 *
 * A trie of words. Words are numbered; the nodes of one word have the numbers of the words, further nodes are
 * found by the node before and the next word. A text is cut into words by one look at each byte; what is not
 * ASCII has been folded by match.py, and all of its bytes belong to words.
 *
 * A text is as long as it says; no index is computed from its bytes but into tables of 256; what is allocated
 * for it is a token a byte at most, and the hits, of which no word has more than the longest query has words.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BOUNDARY = 0, WORD = 1, JOINER = 2, MARK = 3, SHORT = 512 };
#define NONE UINT32_MAX

typedef struct {
    int32_t query; /* the first of those that end here, or -1 */
    int32_t more;  /* whether a longer query begins with these words */
} Node;

typedef struct {
    uint32_t hash, word; /* word: NONE where the slot is empty */
} WordSlot;

typedef struct {
    uint32_t before, word, node; /* node: NONE where the slot is empty */
} StepSlot;

typedef struct {
    PyObject_HEAD
    char *letters; /* of all words, one after the other */
    uint32_t *ends;  /* where each word ends in them */
    uint32_t words;
    WordSlot *word_slots; /* a power of two of them, at most half full; so are those of steps */
    uint32_t word_mask;
    Node *nodes;
    uint32_t count;
    StepSlot *step_slots;
    uint32_t step_mask;
    int32_t *twins; /* of each query the next that has the same words, or -1 */
} Index;

/* A word of a text: where it stands in a copy, and its hash, then its number. */
typedef struct {
    uint32_t start, length, word;
} Token;

typedef struct {
    int32_t *items;
    size_t size, room;
} Numbers;

static uint8_t kinds[256], lower[256];

static void fill_tables(void)
{
    for (int c = 0; c < 256; c++) {
        int letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        lower[c] = (uint8_t)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        kinds[c] = letter || (c >= '0' && c <= '9') || c >= 128 ? WORD : BOUNDARY;
    }
    for (const char *mark = ",.;:?!`#$%&+=@"; *mark; mark++)
        kinds[(uint8_t)*mark] = MARK;
    for (const char *joiner = "-_'"; *joiner; joiner++)
        kinds[(uint8_t)*joiner] = JOINER;
}

static int push(Numbers *numbers, int32_t number)
{
    if (numbers->size == numbers->room) {
        size_t room = numbers->room ? 2 * numbers->room : 64;
        int32_t *grown = NULL;
        if (room <= PY_SSIZE_T_MAX / sizeof(int32_t))
            grown = realloc(numbers->items, room * sizeof(int32_t));
        if (!grown)
            return -1;
        numbers->items = grown;
        numbers->room = room;
    }
    numbers->items[numbers->size++] = number;
    return 0;
}

static uint32_t hash_of(const char *letters, size_t length)
{
    uint64_t hash = length, part;
    for (; length >= 8; letters += 8, length -= 8) {
        memcpy(&part, letters, 8);
        hash = (hash ^ part) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
    }
    if (length) {
        part = 0;
        memcpy(&part, letters, length);
        hash = (hash ^ part) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash * 0xD6E8FEB86659FD93 >> 32);
}

/* Return the number of a word, or NONE and the slot where it belongs. */
static uint32_t find_word(
    const Index *index, const char *letters, size_t length, uint32_t hash, uint32_t *slot)
{
    for (*slot = hash & index->word_mask;; *slot = (*slot + 1) & index->word_mask) {
        uint32_t word = index->word_slots[*slot].word;
        if (word == NONE)
            return NONE;
        if (index->word_slots[*slot].hash != hash)
            continue;
        uint32_t start = word ? index->ends[word - 1] : 0;
        if (index->ends[word] - start == length && !memcmp(index->letters + start, letters, length))
            return word;
    }
}

/* Return the node after another one by a word, or NONE and the slot where it belongs. */
static uint32_t find_step(const Index *index, uint32_t before, uint32_t word, uint32_t *slot)
{
    uint64_t key = ((uint64_t)before << 32 | word) * 0x9E3779B97F4A7C15;
    for (*slot = (uint32_t)(key >> 32) & index->step_mask;; *slot = (*slot + 1) & index->step_mask) {
        const StepSlot *step = index->step_slots + *slot;
        if (step->node == NONE || (step->before == before && step->word == word))
            return step->node;
    }
}

/* Double the slots of words, or make the first; -1 without memory. Small tables stay in the caches. */
static int grow_words(Index *index)
{
    uint32_t slots = index->word_slots ? 2 * (index->word_mask + 1) : 1024;
    WordSlot *old = index->word_slots, *grown = malloc(slots * sizeof(WordSlot));
    if (!grown)
        return -1;
    memset(grown, 255, slots * sizeof(WordSlot));
    for (uint32_t i = 0; old && i <= index->word_mask; i++) {
        uint32_t slot = old[i].hash & (slots - 1);
        if (old[i].word == NONE)
            continue;
        while (grown[slot].word != NONE)
            slot = (slot + 1) & (slots - 1);
        grown[slot] = old[i];
    }
    free(old);
    index->word_slots = grown;
    index->word_mask = slots - 1;
    return 0;
}

/* The same for the slots of steps. */
static int grow_steps(Index *index)
{
    uint32_t slots = index->step_slots ? 2 * (index->step_mask + 1) : 1024, last = index->step_mask, slot;
    StepSlot *old = index->step_slots, *grown = malloc(slots * sizeof(StepSlot));
    if (!grown)
        return -1;
    memset(grown, 255, slots * sizeof(StepSlot));
    index->step_slots = grown;
    index->step_mask = slots - 1;
    for (uint32_t i = 0; old && i <= last; i++)
        if (old[i].node != NONE) {
            find_step(index, old[i].before, old[i].word, &slot);
            grown[slot] = old[i];
        }
    free(old);
    return 0;
}

/* Return where the next word of a query starts, and move to its end; match.py has joined them by spaces. */
static size_t next_word(const char *text, size_t length, size_t *place)
{
    while (*place < length && text[*place] == ' ')
        ++*place;
    size_t start = *place;
    while (*place < length && text[*place] != ' ')
        ++*place;
    return start;
}

static void release(Index *index)
{
    free(index->letters);
    free(index->ends);
    free(index->word_slots);
    free(index->nodes);
    free(index->step_slots);
    free(index->twins);
}

/* Fill an index that holds nothing yet; -1 with an exception set. */
static int build(Index *index, PyObject *queries)
{
    Py_ssize_t count = PyList_Size(queries), length;
    size_t letters = 0, words = 0, steps = 0, place;
    for (Py_ssize_t query = 0; query < count; query++) { /* how much there is at most */
        const char *text = PyUnicode_AsUTF8AndSize(PyList_GetItem(queries, query), &length);
        if (!text)
            return -1;
        letters += (size_t)length;
        place = 0;
        for (size_t number = 0; next_word(text, (size_t)length, &place) < place; number++) {
            words++;
            steps += number > 0;
        }
    }
    if (count >= INT32_MAX || letters >= UINT32_MAX || words + steps >= 1 << 29) {
        PyErr_SetString(PyExc_OverflowError, "too many queries for one index");
        return -1;
    }
    index->letters = malloc(letters + 1);
    index->ends = malloc((words + 1) * sizeof(uint32_t));
    index->nodes = malloc((words + steps + 1) * sizeof(Node));
    index->twins = malloc(((size_t)count + 1) * sizeof(int32_t));
    if (!index->letters || !index->ends || !index->nodes || !index->twins || grow_words(index) ||
        grow_steps(index)) {
        PyErr_NoMemory();
        return -1;
    }
    memset(index->twins, 255, ((size_t)count + 1) * sizeof(int32_t));
    for (int steps_too = 0; steps_too < 2; steps_too++) { /* all words first, so that nodes can follow them */
        for (Py_ssize_t query = 0; query < count; query++) {
            const char *text = PyUnicode_AsUTF8AndSize(PyList_GetItem(queries, query), &length);
            if (!text)
                return -1;
            uint32_t node = NONE, slot, start;
            place = 0;
            while ((start = (uint32_t)next_word(text, (size_t)length, &place)) < place) {
                size_t size = place - start;
                uint32_t hash = hash_of(text + start, size);
                uint32_t word = find_word(index, text + start, size, hash, &slot);
                if (!steps_too) {
                    if (word != NONE)
                        continue;
                    uint32_t end = index->words ? index->ends[index->words - 1] : 0;
                    memcpy(index->letters + end, text + start, size);
                    index->ends[index->words] = end + (uint32_t)size;
                    index->nodes[index->words] = (Node){-1, 0};
                    index->word_slots[slot] = (WordSlot){hash, index->words++};
                    if (2 * index->words > index->word_mask && grow_words(index))
                        goto full;
                } else if (node == NONE) {
                    node = word;
                } else {
                    index->nodes[node].more = 1;
                    uint32_t next = find_step(index, node, word, &slot);
                    if (next == NONE) {
                        next = index->count++;
                        index->nodes[next] = (Node){-1, 0};
                        index->step_slots[slot] = (StepSlot){node, word, next};
                        if (2 * (index->count - index->words) > index->step_mask && grow_steps(index))
                            goto full;
                    }
                    node = next;
                }
            }
            if (node == NONE)
                continue;
            int32_t first = index->nodes[node].query;
            if (first < 0) {
                index->nodes[node].query = (int32_t)query;
            } else {
                index->twins[query] = index->twins[first];
                index->twins[first] = (int32_t)query;
            }
        }
        if (!steps_too)
            index->count = index->words;
    }
    return 0;
full:
    PyErr_NoMemory();
    return -1;
}

static PyObject *new_index(PyTypeObject *type, PyObject *args, PyObject *options)
{
    PyObject *queries;
    if (options && PyDict_Size(options)) {
        PyErr_SetString(PyExc_TypeError, "Index takes a list of queries");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!:Index", &PyList_Type, &queries))
        return NULL;
    Index *index = (Index *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0); /* filled with zeros */
    if (index && build(index, queries)) {
        Py_DECREF(index);
        return NULL;
    }
    return (PyObject *)index;
}

static void end_index(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release((Index *)self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Cut a text into words, at most `length`, and find their numbers: NONE for those of no query. */
static size_t cut(const Index *index, const char *text, size_t length, char *copy, Token *tokens)
{
    size_t count = 0, place = 0;
    uint32_t slot;
    while (place < length) {
        uint8_t kind = kinds[(uint8_t)text[place]];
        size_t start = place, stop;
        if (kind == BOUNDARY) {
            place++;
            continue;
        }
        if (kind == MARK) {
            stop = ++place;
            copy[start] = text[start];
        } else {
            for (; place < length; place++) {
                uint8_t letter = (uint8_t)text[place];
                kind = kinds[letter];
                if (kind == BOUNDARY || kind == MARK)
                    break;
                /* Two hyphens or apostrophes are a dash or a quote. */
                if (kind == JOINER && letter != '_' && place + 1 < length && text[place + 1] == text[place])
                    break;
                copy[place] = (char)lower[letter];
            }
            stop = place;
            if (place < length && kind == JOINER)
                place += 2;
            while (start < stop && kinds[(uint8_t)text[start]] == JOINER)
                start++;
            while (start < stop && kinds[(uint8_t)text[stop - 1]] == JOINER)
                stop--;
            if (start == stop)
                continue;
        }
        uint32_t hash = hash_of(copy + start, stop - start);
#ifdef __GNUC__
        __builtin_prefetch(index->word_slots + (hash & index->word_mask));
#endif
        tokens[count++] = (Token){(uint32_t)start, (uint32_t)(stop - start), hash};
    }
    for (size_t i = 0; i < count; i++)
        tokens[i].word = find_word(index, copy + tokens[i].start, tokens[i].length, tokens[i].word, &slot);
    return count;
}

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void sort(Numbers *numbers)
{
    int32_t *items = numbers->items;
    if (numbers->size > 32) {
        qsort(items, numbers->size, sizeof(int32_t), by_number);
        return;
    }
    for (size_t i = 1; i < numbers->size; i++) {
        int32_t item = items[i];
        size_t place = i;
        for (; place && items[place - 1] > item; place--)
            items[place] = items[place - 1];
        items[place] = item;
    }
}

/* Collect the queries that occur, ascending, each once; -1 without memory. */
static int collect(const Index *index, const Token *tokens, size_t count, Numbers *hits)
{
    for (size_t start = 0; start < count; start++) {
        uint32_t node = tokens[start].word, slot;
        for (size_t next = start + 1; node != NONE; next++) {
            Node here = index->nodes[node];
            if (here.query >= 0 && push(hits, here.query))
                return -1;
            if (!here.more || next >= count || tokens[next].word == NONE)
                break;
            node = find_step(index, node, tokens[next].word, &slot);
        }
    }
    sort(hits);
    size_t distinct = 0;
    for (size_t i = 0; i < hits->size; i++)
        if (!i || hits->items[i] != hits->items[i - 1])
            hits->items[distinct++] = hits->items[i];
    hits->size = distinct;
    for (size_t i = 0; i < distinct; i++)
        for (int32_t twin = index->twins[hits->items[i]]; twin >= 0; twin = index->twins[twin])
            if (push(hits, twin))
                return -1;
    if (hits->size > distinct)
        sort(hits);
    return 0;
}

static PyObject *match(PyObject *self, PyObject *given)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(given, &length);
    if (!text)
        return NULL;
    if ((size_t)length >= UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the text is too long");
        return NULL;
    }
    char short_copy[SHORT], *copy = short_copy;
    Token short_tokens[SHORT], *tokens = short_tokens;
    Numbers hits = {NULL, 0, 0};
    PyObject *result = NULL;
    if (length > SHORT) {
        copy = malloc((size_t)length);
        tokens = calloc((size_t)length, sizeof(Token));
    }
    const Index *index = (const Index *)self;
    if (!copy || !tokens || collect(index, tokens, cut(index, text, (size_t)length, copy, tokens), &hits)) {
        PyErr_NoMemory();
        goto end;
    }
    result = PyList_New((Py_ssize_t)hits.size);
    for (size_t i = 0; result && i < hits.size; i++) {
        PyObject *number = PyLong_FromLong(hits.items[i]);
        if (!number || PyList_SetItem(result, (Py_ssize_t)i, number))
            Py_CLEAR(result);
    }
end:
    free(hits.items);
    if (length > SHORT) {
        free(copy);
        free(tokens);
    }
    return result;
}

static PyMethodDef methods[] = {
    {"match", match, METH_O, "match(text) -> the ids of the queries that occur in it, ascending"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot index_slots[] = {
    {Py_tp_new, new_index},
    {Py_tp_dealloc, end_index},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Index(queries): those of a list, each as its tokens joined by spaces."},
    {0, NULL},
};

static PyType_Spec index_spec = {
    "pipeline.captions._match.Index", sizeof(Index), 0, Py_TPFLAGS_DEFAULT, index_slots,
};

static int start(PyObject *module)
{
    fill_tables();
    PyObject *type = PyType_FromSpec(&index_spec);
    int failed = !type || PyModule_AddObjectRef(module, "Index", type);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pipeline.captions._match", "Queries in captions; see match.py.", 0, NULL, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__match(void)
{
    return PyModuleDef_Init(&definition);
}
