/* Predict the language of a line with a quantised fastText model, as fasttext-predict 0.9.2.4 does, bit for bit.

   What is different is the memory: rows are dequantised once, n-grams are found by a bitmap and a table in place
   of a map of nodes, nothing is allocated for a line. The sums are those of fastText, in the same order. */

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 793712314
#define DIM 16
#define BLOCK 16 /* nodes that are weighed together */
#define MOST_LABELS (1 << 12)
#define MOST_LONG 8 /* characters of an n-gram */
#define MOST 16 /* labels that can be asked for */
#define CENTROIDS 256
#define MOST_COUNTED 100000000000 /* of a label, so that all together stay below 1e15 */
#define CAPSULE "openwit.language"

typedef struct {
    int32_t minn, maxn, nwords, nlabels, nodes, width;
    uint32_t bucket, word_mask, gram_mask;
    uint64_t inverse;       /* of bucket: 2^64 / bucket, rounded up */
    float (*rows)[DIM];     /* of words, then of the n-grams that are kept */
    float *out;             /* DIM x width: the weights of the inner nodes, transposed */
    char *text;             /* the words, one after the other */
    uint32_t *at;           /* where word i begins; at[size] is the end */
    int32_t *word_slots, *grams, *left, *right; /* grams: keys, each with its row */
    uint8_t *kept;          /* a bit for each bucket */
    PyObject **labels;
} Model;

typedef struct {
    const unsigned char *next, *end;
} Reader;

static int take(Reader *from, void *to, size_t size) {
    if ((size_t)(from->end - from->next) < size) return 0;
    memcpy(to, from->next, size);
    from->next += size;
    return 1;
}

static void clear(Model *m) {
    if (m == NULL) return;
    if (m->labels)
        for (int32_t i = 0; i < m->nlabels; i++) Py_XDECREF(m->labels[i]);
    free(m->labels); free(m->rows); free(m->out); free(m->text); free(m->at); free(m->word_slots);
    free(m->grams); free(m->left); free(m->right); free(m->kept); free(m);
}

static void destroy(PyObject *capsule) { clear(PyCapsule_GetPointer(capsule, CAPSULE)); }

static inline uint32_t step(uint32_t hash, unsigned char byte) {
    return (hash ^ (uint32_t)(int8_t)byte) * 16777619u; /* as models were trained, with signed char */
}

static int32_t find_word(const Model *m, const char *word, size_t size, uint32_t hash) {
    for (uint32_t slot = hash & m->word_mask;; slot = (slot + 1) & m->word_mask) {
        int32_t i = m->word_slots[slot];
        if (i < 0) return -1;
        if (m->at[i + 1] - m->at[i] == size && !memcmp(m->text + m->at[i], word, size)) return i;
    }
}

static uint32_t hash_of(const char *word, size_t size) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < size; i++) hash = step(hash, (unsigned char)word[i]);
    return hash;
}

/* hash % bucket by two multiplications (Lemire, Kaser, Kurz 2019, arXiv 1902.01961: exact for 32 bits). */
static inline uint32_t key_of(const Model *m, uint32_t hash) {
#ifdef __SIZEOF_INT128__
    return (uint32_t)(((unsigned __int128)(m->inverse * hash) * m->bucket) >> 64);
#else
    return hash % m->bucket;
#endif
}

static inline int is_kept(const Model *m, uint32_t key) { return m->kept[key >> 3] >> (key & 7) & 1; }

static inline uint32_t slot_of(const Model *m, uint32_t key) { return (key * 2654435761u) & m->gram_mask; }

static uint32_t table_mask(uint32_t entries) {
    uint32_t size = 16;
    while (size < 2 * entries) size *= 2;
    return size - 1;
}

/* A product quantiser: its shape, then its centroids. */
static int take_centroids(Reader *from, int32_t dim, int32_t *parts, int32_t *width, float **found) {
    int32_t shape[4];
    if (!take(from, shape, sizeof shape) || shape[0] != dim || shape[2] < 1 || dim % shape[2]
        || shape[1] != dim / shape[2] || shape[3] != shape[2])
        return 0;
    size_t size = (size_t)dim * CENTROIDS * sizeof(float);
    if (!(*found = malloc(size)) || !take(from, *found, size)) return 0;
    *parts = shape[1];
    *width = shape[2];
    return 1;
}

/* The tree of the hierarchical softmax: Huffman's, over labels sorted by falling counts. */
static int plant(Model *m, const int64_t *counts) {
    int32_t leaves = m->nlabels, all = 2 * leaves - 1, leaf = leaves - 1, node = leaves;
    int64_t *sum = malloc((size_t)all * sizeof *sum);
    m->left = malloc((size_t)all * sizeof *m->left);
    m->right = malloc((size_t)all * sizeof *m->right);
    if (!sum || !m->left || !m->right) { free(sum); return 0; }
    for (int32_t i = 0; i < all; i++) {
        sum[i] = i < leaves ? counts[i] : (int64_t)1e15;
        m->left[i] = m->right[i] = -1;
    }
    for (int32_t i = leaves; i < all; i++) {
        int32_t two[2];
        for (int j = 0; j < 2; j++) two[j] = leaf >= 0 && sum[leaf] < sum[node] ? leaf-- : node++;
        m->left[i] = two[0];
        m->right[i] = two[1];
        sum[i] = sum[two[0]] + sum[two[1]];
    }
    free(sum);
    return 1;
}

static int load_words(Model *m, Reader *from, int32_t size, int64_t *counts) {
    const unsigned char *start = from->next;
    if (!(m->text = malloc((size_t)(from->end - start)))
        || !(m->at = malloc(((size_t)size + 1) * sizeof *m->at))
        || !(m->labels = calloc((size_t)m->nlabels, sizeof *m->labels)))
        return 0;
    m->word_mask = table_mask((uint32_t)size);
    if (!(m->word_slots = malloc(((size_t)m->word_mask + 1) * sizeof *m->word_slots))) return 0;
    memset(m->word_slots, 0xff, ((size_t)m->word_mask + 1) * sizeof *m->word_slots);
    uint32_t used = 0;
    m->at[0] = 0;
    for (int32_t i = 0; i < size; i++) {
        const unsigned char *stop = memchr(from->next, 0, (size_t)(from->end - from->next));
        int64_t count;
        int8_t type;
        if (stop == NULL) return 0;
        size_t length = (size_t)(stop - from->next);
        char *word = m->text + used;
        memcpy(word, from->next, length);
        from->next = stop + 1;
        if (!take(from, &count, sizeof count) || !take(from, &type, sizeof type)
            || type != (i >= m->nwords)) /* words first, then labels */
            return 0;
        m->at[i + 1] = used += (uint32_t)length;
        uint32_t slot = hash_of(word, length) & m->word_mask;
        while (m->word_slots[slot] >= 0) slot = (slot + 1) & m->word_mask;
        m->word_slots[slot] = i;
        if (i >= m->nwords) {
            const char *name = length < 9 || memcmp(word, "__label__", 9) ? NULL : word + 9;
            if (name == NULL || count < 0 || count > MOST_COUNTED
                || !(m->labels[i - m->nwords] = PyUnicode_FromStringAndSize(name, (Py_ssize_t)length - 9)))
                return 0;
            counts[i - m->nwords] = count;
        }
    }
    return 1;
}

static int load_grams(Model *m, Reader *from, int64_t kept) {
    m->gram_mask = table_mask((uint32_t)kept);
    size_t slots = (size_t)m->gram_mask + 1;
    if (!(m->grams = malloc(2 * slots * sizeof *m->grams)) || !(m->kept = calloc(m->bucket / 8 + 1, 1)))
        return 0;
    memset(m->grams, 0xff, 2 * slots * sizeof *m->grams);
    for (int64_t i = 0; i < kept; i++) {
        int32_t pair[2];
        if (!take(from, pair, sizeof pair) || pair[0] < 0 || (uint32_t)pair[0] >= m->bucket || pair[1] < 0
            || pair[1] >= kept || m->kept[pair[0] >> 3] >> (pair[0] & 7) & 1)
            return 0;
        uint32_t slot = slot_of(m, (uint32_t)pair[0]);
        while (m->grams[2 * slot] >= 0) slot = (slot + 1) & m->gram_mask;
        m->grams[2 * slot] = pair[0];
        m->grams[2 * slot + 1] = m->nwords + pair[1];
        m->kept[pair[0] >> 3] |= (uint8_t)(1 << (pair[0] & 7));
    }
    return 1;
}

static int load_rows(Model *m, Reader *from, int64_t count) {
    uint8_t quantised, norms;
    int64_t shape[2];
    int32_t codes, parts = 0, width = 0, one, alone;
    float *centroids = NULL, *lengths = NULL;
    const uint8_t *code, *length_code;
    int done = 0;
    if (!take(from, &quantised, 1) || quantised != 1 || !take(from, &norms, 1) || norms > 1
        || !take(from, shape, sizeof shape) || shape[0] != count || shape[1] != DIM
        || !take(from, &codes, sizeof codes) || codes < 0 || from->end - from->next < codes)
        return 0;
    code = from->next;
    from->next += codes;
    if (!take_centroids(from, DIM, &parts, &width, &centroids) || (int64_t)codes != count * parts) goto end;
    length_code = from->next;
    if (norms) {
        if (from->end - from->next < count) goto end;
        from->next += count;
        if (!take_centroids(from, 1, &one, &alone, &lengths)) goto end;
    }
    if (!(m->rows = malloc((size_t)count * sizeof *m->rows))) goto end;
    for (int64_t i = 0; i < count; i++)
        for (int32_t part = 0; part < parts; part++)
            for (int32_t j = 0; j < width; j++)
                m->rows[i][part * width + j] =
                    (norms ? lengths[length_code[i]] : 1.0f)
                    * centroids[(part * CENTROIDS + code[i * parts + part]) * width + j];
    done = 1;
end:
    free(centroids);
    free(lengths);
    return done;
}

static int load_out(Model *m, Reader *from) {
    uint8_t quantised;
    int64_t shape[2];
    float row[DIM];
    if (!take(from, &quantised, 1) || quantised || !take(from, shape, sizeof shape) || shape[0] != m->nlabels
        || shape[1] != DIM)
        return 0;
    m->nodes = m->nlabels - 1;
    m->width = (m->nodes + BLOCK - 1) / BLOCK * BLOCK;
    if (!(m->out = calloc((size_t)m->width * DIM, sizeof *m->out))) return 0;
    for (int32_t i = 0; i < m->nodes; i++) {
        if (!take(from, row, sizeof row)) return 0;
        for (int j = 0; j < DIM; j++) m->out[j * m->width + i] = row[j];
    }
    return take(from, row, sizeof row); /* of the root's parent, which there is not */
}

static int load_model(Model *m, Reader *from) {
    int32_t head[2], args[12], sizes[3];
    double t;
    int64_t tokens, kept;
    if (!take(from, head, sizeof head) || head[0] != MAGIC || head[1] != 12 || !take(from, args, sizeof args)
        || !take(from, &t, sizeof t))
        return 0;
    /* dim, ws, epoch, minCount, neg, wordNgrams, loss (1: hierarchical softmax), model (3: supervised) */
    if (args[0] != DIM || args[5] != 1 || args[6] != 1 || args[7] != 3 || args[8] < 1 || args[8] > 1 << 24
        || args[9] < 1 || args[10] < args[9] || args[10] > MOST_LONG)
        return 0;
    m->bucket = (uint32_t)args[8];
    m->inverse = UINT64_MAX / m->bucket + 1; /* of bucket 1 it is 0, as is every key */
    m->minn = args[9];
    m->maxn = args[10];
    if (!take(from, sizes, sizeof sizes) || !take(from, &tokens, sizeof tokens)
        || !take(from, &kept, sizeof kept) || sizes[1] < 1 || sizes[1] > 1 << 24 || sizes[2] < 2
        || sizes[2] > MOST_LABELS || sizes[0] != sizes[1] + sizes[2] || kept < 1 || kept > m->bucket)
        return 0;
    m->nwords = sizes[1];
    m->nlabels = sizes[2];
    int64_t *counts = malloc((size_t)m->nlabels * sizeof *counts);
    int done = counts && load_words(m, from, sizes[0], counts) && load_grams(m, from, kept)
               && load_rows(m, from, m->nwords + kept) && load_out(m, from) && plant(m, counts);
    free(counts);
    return done;
}

static PyObject *load(PyObject *self, PyObject *data) {
    char *bytes;
    Py_ssize_t size;
    (void)self;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0) return NULL;
    Model *m = calloc(1, sizeof *m);
    if (m == NULL) return PyErr_NoMemory();
    Reader from = {(const unsigned char *)bytes, (const unsigned char *)bytes + size};
    if (!load_model(m, &from)) {
        clear(m);
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "not a model that is read here");
        return NULL;
    }
    PyObject *capsule = PyCapsule_New(m, CAPSULE, destroy);
    if (capsule == NULL) clear(m);
    return capsule;
}

/* What a line consists of: rows of words, and keys of n-grams of which few are kept. They are looked up together,
   so that one need not wait for another's memory, and summed in their order. */
#define PARTS_AT_ONCE 512
#define IS_WORD (1u << 31)

typedef struct {
    float sum[DIM];
    int64_t rows;
    int count;
    uint32_t parts[PARTS_AT_ONCE]; /* keys, or rows of words with IS_WORD */
} Hidden;

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

static void add_parts(const Model *m, Hidden *hidden) {
    uint32_t *parts = hidden->parts;
    int found = 0;
    for (int i = 0; i < hidden->count; i++) {
        uint32_t part = parts[i], key = part & IS_WORD ? 0 : part;
        parts[found] = part;
        found += part >> 31 | is_kept(m, key);
    }
    for (int i = 0; i < found; i++)
        if (!(parts[i] & IS_WORD)) PREFETCH(m->grams + 2 * slot_of(m, parts[i]));
    for (int i = 0; i < found; i++) {
        uint32_t key = parts[i], slot = slot_of(m, key);
        if (key & IS_WORD) {
            parts[i] = key ^ IS_WORD;
        } else {
            while ((uint32_t)m->grams[2 * slot] != key) slot = (slot + 1) & m->gram_mask;
            parts[i] = (uint32_t)m->grams[2 * slot + 1];
        }
        PREFETCH(m->rows[parts[i]]);
    }
    float sum[DIM];
    memcpy(sum, hidden->sum, sizeof sum);
    for (int i = 0; i < found; i++)
        for (int j = 0; j < DIM; j++) sum[j] += m->rows[parts[i]][j];
    memcpy(hidden->sum, sum, sizeof sum);
    hidden->rows += found;
    hidden->count = 0;
}

static void add_word(const Model *m, Hidden *hidden, const char *word, size_t size) {
    int32_t id = find_word(m, word, size, hash_of(word, size));
    if (id >= m->nwords || (id < 0 && size >= 9 && !memcmp(word, "__label__", 9))) return;
    if (hidden->count > PARTS_AT_ONCE - 1) add_parts(m, hidden);
    if (id >= 0) hidden->parts[hidden->count++] = (uint32_t)id | IS_WORD;
    if (size == 4 && !memcmp(word, "</s>", 4)) return;
    /* N-grams of <word>: position -1 is the sign before, `size` the one after. */
    for (ptrdiff_t i = -1; i <= (ptrdiff_t)size; i++) {
        unsigned char first = i < 0 ? '<' : i == (ptrdiff_t)size ? '>' : (unsigned char)word[i];
        if ((first & 0xC0) == 0x80) continue;
        if (hidden->count > PARTS_AT_ONCE - MOST_LONG) add_parts(m, hidden);
        uint32_t hash = 2166136261u, *next = hidden->parts + hidden->count;
        ptrdiff_t j = i;
        for (int32_t n = 1; j <= (ptrdiff_t)size && n <= m->maxn; n++) {
            unsigned char byte = j < 0 ? '<' : j == (ptrdiff_t)size ? '>' : (unsigned char)word[j];
            hash = step(hash, byte);
            for (j++; j < (ptrdiff_t)size && ((unsigned char)word[j] & 0xC0) == 0x80; j++)
                hash = step(hash, (unsigned char)word[j]);
            if (n < m->minn || (n == 1 && (i < 0 || j > (ptrdiff_t)size))) continue;
            *next++ = key_of(m, hash);
        }
        hidden->count = (int)(next - hidden->parts);
    }
}

static inline int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r') || c == 0;
}

static inline float log_of(float x) { return (float)log(x + 1e-5); }

/* What log_of is at most, by the first bits of x + 1e-5: 18 powers of two from 2^-17 on, 32 parts of each. */
#define PARTS 32
#define POWERS 18
#define FIRST_PART ((1023u - 17) * PARTS)
static float log_most[POWERS * PARTS];

static void fill_logs(void) {
    for (int i = 0; i < POWERS * PARTS; i++)
        log_most[i] = (float)(log(ldexp(1 + (i % PARTS + 1.0) / PARTS, i / PARTS - 17)) + 1e-4);
}

typedef struct {
    float score;
    int32_t node;
} Found;

typedef struct {
    const Model *m;
    const float *dots;
    float least;
    int most, count;
    Found best[MOST]; /* by falling score */
} Search;

/* Whether a score is too low for the labels that are looked for. */
static inline int is_low(const Search *s, float score) {
    return score < s->least || (s->count == s->most && score < s->best[s->count - 1].score);
}

static void look(Search *s, int32_t node, float score);

/* Look at a child that has the share x of its parent; most have so little that no logarithm is needed. */
static inline void look_at_child(Search *s, int32_t node, float score, float x) {
    double shifted = x + 1e-5;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    uint64_t part = (bits >> 47) - FIRST_PART;
    if (part < POWERS * PARTS && is_low(s, score + log_most[part])) return;
    look(s, node, score + log_of(x));
}

static void look(Search *s, int32_t node, float score) {
    if (is_low(s, score)) return;
    if (s->m->left[node] < 0) {
        if (s->count < s->most) s->count++;
        int i = s->count - 1;
        for (; i > 0 && s->best[i - 1].score < score; i--) s->best[i] = s->best[i - 1];
        s->best[i] = (Found){score, node};
        return;
    }
    float f = (float)(1. / (1 + expf(-s->dots[node - s->m->nlabels])));
    look_at_child(s, s->m->left[node], score, (float)(1.0 - f));
    look_at_child(s, s->m->right[node], score, f);
}

/* Find the likeliest labels of a line, with the logarithms of their probabilities. */
static Search search(const Model *m, const char *line, size_t size, int most) {
    Hidden hidden;
    memset(hidden.sum, 0, sizeof hidden.sum);
    hidden.rows = hidden.count = 0;
    for (size_t i = 0; i < size; i++) {
        if (is_space(line[i])) continue;
        size_t start = i;
        while (i < size && !is_space(line[i])) i++;
        add_word(m, &hidden, line + start, i - start);
    }
    add_word(m, &hidden, "</s>", 4);
    add_parts(m, &hidden);
    float dots[MOST_LABELS];
    float share = hidden.rows ? (float)(1.0 / (double)hidden.rows) : 0;
    for (int32_t i = 0; i < m->nodes; i += BLOCK) {
        float block[BLOCK] = {0};
        for (int j = 0; j < DIM; j++) {
            float value = hidden.sum[j] * share;
            for (int k = 0; k < BLOCK; k++) block[k] += m->out[(ptrdiff_t)j * m->width + i + k] * value;
        }
        memcpy(dots + i, block, sizeof block);
    }
    Search found = {m, dots, log_of(0.0f), most, 0, {{0, 0}}};
    look(&found, 2 * m->nlabels - 2, 0.0f);
    found.dots = NULL;
    return found;
}

static PyObject *predict(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "predict(model, line, k)");
    const Model *m = PyCapsule_GetPointer(args[0], CAPSULE);
    Py_ssize_t size;
    const char *line = m ? PyUnicode_AsUTF8AndSize(args[1], &size) : NULL;
    long k = line ? PyLong_AsLong(args[2]) : 0;
    if (line == NULL || (k == -1 && PyErr_Occurred())) return NULL;
    if (k < 1 || k > MOST) return PyErr_Format(PyExc_ValueError, "k is from 1 to %d", MOST);
    Search found = search(m, line, (size_t)size, (int)k);
    PyObject *labels = PyTuple_New(found.count), *scores = PyTuple_New(found.count);
    if (labels && scores) {
        for (int i = 0; i < found.count; i++) {
            PyObject *score = PyFloat_FromDouble(expf(found.best[i].score)), *label;
            if (score == NULL) goto failed;
            label = m->labels[found.best[i].node];
            Py_INCREF(label);
            PyTuple_SetItem(labels, i, label);
            PyTuple_SetItem(scores, i, score);
        }
        PyObject *both = PyTuple_Pack(2, labels, scores);
        Py_DECREF(labels);
        Py_DECREF(scores);
        return both;
    }
failed:
    Py_XDECREF(labels);
    Py_XDECREF(scores);
    return NULL;
}

/* The rest is `Identifier.evidence` and `decide` of language.py in one, in the same order of the same steps. */
#define TOP 5
#define LEAST 1e-7

typedef struct {
    PyObject *names[TOP];
    double likely[TOP], other;
    int count;
    PyObject *not_latin; /* where there is no Latin letter: the languages that need none; else NULL */
} Evidence;

static Evidence evidence_of(const Search *found, Py_ssize_t letters, double certainty, PyObject *not_latin) {
    Evidence text = {.count = found->count, .not_latin = not_latin};
    double scores[TOP], sum = 0, least = INFINITY, power = certainty + (double)letters / 50;
    for (int i = 0; i < text.count; i++) {
        text.names[i] = found->m->labels[found->best[i].node];
        scores[i] = expf(found->best[i].score);
        sum += scores[i];
        if (scores[i] < least) least = scores[i];
    }
    double rest = (1 - sum) / TOP;
    if (!(rest >= LEAST)) rest = LEAST;
    if (least < rest) rest = least;
    text.other = rest > LEAST ? rest : LEAST;
    if (power > 1) power = 1;
    int as_it_is = power == 1 && least >= LEAST;
    for (int i = 0; i < text.count; i++)
        text.likely[i] = as_it_is ? scores[i] : pow(scores[i] > LEAST ? scores[i] : LEAST, power);
    if (!as_it_is) text.other = pow(text.other, power);
    return text;
}

/* The place of a language among the likeliest, or -1. */
static int place_of(const Evidence *text, PyObject *name) {
    for (int i = 0; i < text->count; i++)
        if (text->names[i] == name || !PyUnicode_Compare(text->names[i], name)) return i;
    return -1;
}

/* A language's likelihood; the error of a set that cannot be asked shows at the end. */
static double likelihood(const Evidence *text, PyObject *name, int place) {
    if (text->not_latin && PySet_Contains(text->not_latin, name) < 1) return LEAST;
    return place < 0 ? text->other : text->likely[place];
}

typedef struct {
    PyObject *best, *wanted; /* borrowed */
    double weight, of_wanted, total;
} Posterior;

static void weigh(Posterior *all, PyObject *name, double weight) {
    all->total += weight;
    if (all->best == NULL || weight > all->weight) {
        all->best = name;
        all->weight = weight;
    }
    if (name == all->wanted || !PyUnicode_Compare(name, all->wanted)) all->of_wanted = weight;
}

/* round(x, 4) of a number from 0 to 1; what is near the middle of two is left to Python. */
static PyObject *rounded(double x) {
    double scaled = x * 1e4, whole = floor(scaled + 0.5), away = fabs(scaled - whole);
    if (x >= 0 && x <= 1 && away < 0.499999) return PyFloat_FromDouble(whole / 1e4);
    PyObject *number = PyFloat_FromDouble(x);
    PyObject *result = number ? PyObject_CallMethod(number, "__round__", "i", 4) : NULL;
    Py_XDECREF(number);
    return result;
}

static PyObject *decide(const Evidence *text, PyObject *known, double unknown, PyObject *wanted) {
    Posterior all = {NULL, wanted, 0, 0, 0};
    PyObject *name, *value;
    Py_ssize_t at = 0, priors = PyDict_Size(known);
    int of_known = 0, has_wanted = PyUnicode_GetLength(wanted) > 0;
    for (int i = 0; i < text->count; i++) {
        value = priors ? PyDict_GetItemWithError(known, text->names[i]) : NULL;
        weigh(&all, text->names[i],
              likelihood(text, text->names[i], i) * (value ? PyFloat_AsDouble(value) : unknown));
    }
    while (PyDict_Next(known, &at, &name, &value)) {
        if (!PyUnicode_Check(name)) return PyErr_Format(PyExc_TypeError, "languages are text");
        of_known |= !PyUnicode_Compare(name, wanted);
        if (PyUnicode_GetLength(name) > 0 && place_of(text, name) < 0)
            weigh(&all, name, likelihood(text, name, -1) * PyFloat_AsDouble(value));
    }
    if (has_wanted && !of_known && place_of(text, wanted) < 0)
        weigh(&all, wanted, likelihood(text, wanted, -1) * unknown);
    PyObject *score = PyErr_Occurred() ? NULL : rounded(all.weight / all.total);
    PyObject *share = score ? rounded(all.of_wanted / all.total) : NULL;
    PyObject *decision = share ? PyTuple_Pack(3, all.best, score, share) : NULL;
    Py_XDECREF(score);
    Py_XDECREF(share);
    return decision;
}

/* Write ASCII text in small letters, with a space for each white space; return how many letters it has. */
static Py_ssize_t lower(const char *text, Py_ssize_t size, char *line) {
    Py_ssize_t letters = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i], small = c | 32;
        int letter = small >= 'a' && small <= 'z';
        letters += letter;
        line[i] = (char)(letter ? small : c >= 0x1c && c < 0x20 ? ' ' : c);
    }
    return letters;
}

static PyObject *tell(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 8) return PyErr_Format(PyExc_TypeError, "tell takes 8 arguments");
    const Model *m = PyCapsule_GetPointer(args[0], CAPSULE);
    Py_ssize_t size;
    const char *text = m ? PyUnicode_AsUTF8AndSize(args[1], &size) : NULL;
    if (text == NULL) return NULL;
    Py_ssize_t letters = PyLong_AsSsize_t(args[2]);
    double certainty = PyFloat_AsDouble(args[4]), unknown = PyFloat_AsDouble(args[6]);
    if (PyErr_Occurred()) return NULL;
    PyObject *not_latin = args[3] == Py_None ? NULL : args[3];
    if ((not_latin && !PyAnySet_Check(not_latin)) || !PyDict_Check(args[5]) || !PyUnicode_Check(args[7]))
        return PyErr_Format(PyExc_TypeError, "tell takes a set, a dict and a language");
    char short_line[512], *line = NULL;
    if (letters < 0) {
        line = size <= (Py_ssize_t)sizeof short_line ? short_line : malloc((size_t)size);
        if (line == NULL) return PyErr_NoMemory();
        letters = lower(text, size, line);
    }
    PyObject *decision = NULL;
    if (letters) {
        Search found = search(m, line ? line : text, (size_t)size, TOP);
        Evidence read = evidence_of(&found, letters, certainty, not_latin);
        if (read.count)
            decision = decide(&read, args[5], unknown, args[7]);
        else
            PyErr_SetString(PyExc_ValueError, "the model knows no language");
    } else {
        Py_INCREF(Py_None);
        decision = Py_None;
    }
    if (line != short_line) free(line);
    return decision;
}

static PyMethodDef methods[] = {
    {"load", load, METH_O, "Return a model from the bytes of its file; ValueError for another kind of model."},
    {"predict", (PyCFunction)(void (*)(void))predict, METH_FASTCALL,
     "Return the k likeliest labels of a line and their probabilities."},
    {"tell", (PyCFunction)(void (*)(void))tell, METH_FASTCALL,
     "Return the language of a text, its probability and that of the wanted one; None without a letter."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_language", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__language(void) {
    fill_logs();
    return PyModule_Create(&module);
}
