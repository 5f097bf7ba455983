/* The exact search of dedup/search.py: each query and its mirror image against all references, and a bound on
 * the similarity of what lies within the radius. Without this module the same is done by faiss and numpy.
 *
 * References are read once for all queries of a call, in tiles that stay in the first-level cache. A tile is
 * turned on its side: first each pair of neighbouring bytes of a hash becomes one byte of its bits at even
 * horizontal frequencies and one of those at odd ones, then equal bytes of 64 references (AVX-512), or equal
 * nibbles of 32 (AVX2), come to lie beside each other in a column. Mirroring a picture keeps the even bits and
 * turns the odd ones, but for the few that the median moves. So a query is compared column by column: where its
 * mirror image has the same byte, the column's distance counts for both; where it has the opposite byte, the
 * complement counts for the mirror image; only the other columns are looked at twice.
 *
 * All sizes are checked before anything is read, and the only memory that grows is the list of results.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__) || !defined(__GNUC__)
#error "written for x86-64 with GCC or Clang; elsewhere dedup/search.py does without"
#endif
#include <immintrin.h>

enum { HASH = 32, TERMS = 256, TILE = 768, PENDING = 4096, SHARED = 0, OPPOSITE = 1, OWN = 2 };

typedef struct {
    int64_t reference;
    int32_t query;
    int16_t distance;
    int16_t mirrored;
} Pair;

typedef struct {
    const uint8_t *hashes, *mirrored; /* [queries, 32]; mirrored may be NULL */
    const uint8_t *references;        /* [count, 32] */
    const int16_t *weights;           /* [2, queries, 256]: as they are, then mirrored; NULL: no second look */
    const int8_t *colours;            /* [count, 256] */
    int32_t least[8 * HASH + 1];      /* the sum of products that a pair needs, by its distance */
    Py_ssize_t queries, count;
    int radius;
    Pair pending[PENDING];
    int waiting;
    Pair *found;
    size_t size, room;
    int failed;
} Scan;

/* Of each query: its columns, first those that it shares with its mirror image, then the opposite ones, then
 * those of its own. `table` has for each of them the byte, four times, or the distances of all 16 nibbles. */
typedef struct {
    uint8_t column[64];
    int shared, opposite, own;
    union {
        uint32_t bytes[2][32];
        uint8_t nibbles[2][64][16];
    } table;
} Query;

/* The sum of the products of 256 terms: at most 256 * 32,767 * 128, so it cannot overflow. */
__attribute__((target("avx2"))) static int32_t dot(const int16_t *weights, const int8_t *colours)
{
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < TERMS; i += 16) {
        __m256i c = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(colours + i)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(c, _mm256_loadu_si256((const __m256i *)(weights + i))));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

/* Keep of the pending pairs those whose colours may bring the similarity to the floor. */
static void flush(Scan *scan)
{
    for (int i = 0; i < scan->waiting && !scan->failed; i++) {
        Pair pair = scan->pending[i];
        if (scan->weights) {
            if (i + 8 < scan->waiting) {
                const int8_t *soon = scan->colours + scan->pending[i + 8].reference * TERMS;
                for (int line = 0; line < TERMS; line += 64)
                    __builtin_prefetch(soon + line);
            }
            const int16_t *weights = scan->weights + (pair.mirrored * scan->queries + pair.query) * TERMS;
            if (dot(weights, scan->colours + pair.reference * TERMS) < scan->least[pair.distance])
                continue;
        }
        if (scan->size == scan->room) {
            size_t room = scan->room ? 2 * scan->room : 1024;
            Pair *grown = NULL;
            if (room <= PY_SSIZE_T_MAX / sizeof(Pair))
                grown = realloc(scan->found, room * sizeof(Pair));
            if (!grown) {
                scan->failed = 1;
                break;
            }
            scan->found = grown;
            scan->room = room;
        }
        scan->found[scan->size++] = pair;
    }
    scan->waiting = 0;
}

static inline void keep(Scan *scan, Py_ssize_t query, Py_ssize_t reference, int distance, int mirrored)
{
    scan->pending[scan->waiting++] = (Pair){reference, (int32_t)query, (int16_t)distance, (int16_t)mirrored};
    if (scan->waiting == PENDING)
        flush(scan);
}

/* Sort the bits of a hash: byte 2k gets the even frequencies of bytes 2k and 2k + 1, the next byte the odd. */
static inline void sort_bits(const uint8_t *hash, uint8_t *sorted)
{
    for (int word = 0; word < HASH; word += 8) {
        uint64_t x;
        memcpy(&x, hash + word, 8);
        uint64_t even = x & 0xAAAAAAAAAAAAAAAA, odd = x & 0x5555555555555555, low = 0x00FF00FF00FF00FF;
        x = ((even | even >> 9) & low) | ((odd << 1 | odd >> 8) & low) << 8;
        memcpy(sorted + word, &x, 8);
    }
}

/* Turn 16 rows of 16 bytes, 32 bytes apart, into 16 columns, `step` bytes apart. */
static inline void transpose(const uint8_t *rows, uint8_t *columns, int step)
{
    __m128i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = _mm_loadu_si128((const __m128i *)(rows + i * HASH));
    for (int round = 0; round < 4; round++) { /* a perfect shuffle of rows, four times */
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < 16; i++)
        _mm_storeu_si128((__m128i *)(columns + i * step), a[i]);
}

/* Fill blocks of [32, 64] with the references from `start` on; the last block is filled up with zeros. */
static void turn(const Scan *scan, Py_ssize_t start, Py_ssize_t rows, uint8_t *blocks)
{
    uint8_t sorted[64 * HASH];
    for (Py_ssize_t first = 0; first < rows; first += 64, blocks += 64 * HASH) {
        int here = rows - first < 64 ? (int)(rows - first) : 64;
        for (int row = 0; row < here; row++)
            sort_bits(scan->references + (start + first + row) * HASH, sorted + row * HASH);
        memset(sorted + here * HASH, 0, (size_t)(64 - here) * HASH);
        for (int row = 0; row < 64; row += 16)
            for (int column = 0; column < HASH; column += 16)
                transpose(sorted + row * HASH + column, blocks + column * 64 + row, 64);
    }
}

/* The value of a column of 8 or 4 bits. */
static int value_of(const uint8_t *sorted, int column, int bits)
{
    return bits == 8 ? sorted[column] : column & 1 ? sorted[column >> 1] >> 4 : sorted[column >> 1] & 15;
}

static void prepare(const Scan *scan, Py_ssize_t number, int bits, Query *query)
{
    uint8_t own[HASH], other[HASH], kinds[64];
    int columns = 8 * HASH / bits, full = (1 << bits) - 1, place = 0, counts[3] = {0, 0, 0};
    sort_bits(scan->hashes + number * HASH, own);
    sort_bits((scan->mirrored ? scan->mirrored : scan->hashes) + number * HASH, other);
    for (int column = 0; column < columns; column++) {
        int difference = value_of(own, column, bits) ^ value_of(other, column, bits);
        kinds[column] = difference == 0 ? SHARED : difference == full ? OPPOSITE : OWN;
    }
    kinds[0] = OWN; /* so that the others, which are added up without saturation, stay below 256 */
    for (int kind = SHARED; kind <= OWN; kind++)
        for (int column = 0; column < columns; column++) {
            if (kinds[column] != kind)
                continue;
            counts[kind]++;
            for (int mirrored = 0; mirrored < 2; mirrored++) {
                int value = value_of(mirrored ? other : own, column, bits);
                if (bits == 8)
                    query->table.bytes[mirrored][place] = (uint32_t)value * 0x01010101u;
                else
                    for (int nibble = 0; nibble < 16; nibble++)
                        query->table.nibbles[mirrored][place][nibble] =
                            (uint8_t)__builtin_popcount((unsigned)(nibble ^ value));
            }
            query->column[place++] = (uint8_t)column;
        }
    query->shared = counts[SHARED];
    query->opposite = counts[OPPOSITE];
    query->own = counts[OWN];
}

/* Keep the references of a block whose bits are set in `hits`. */
static void keep_all(
    Scan *scan, uint64_t hits, Py_ssize_t query, Py_ssize_t first, const uint8_t *distances, int mirrored)
{
    for (; hits; hits &= hits - 1) {
        int i = __builtin_ctzll(hits);
        if (first + i < scan->count)
            keep(scan, query, first + i, distances[i], mirrored);
    }
}

/* One query against 64 references, whose nibbles lie in [64, 64]: low and high ones of a byte in turn. */
__attribute__((target("avx2"))) static void compare_avx2(
    Scan *scan, const Query *query, Py_ssize_t number, const uint8_t *block, Py_ssize_t first)
{
    __m256i shared[2], opposite[2], own[2], other[2];
    for (int half = 0; half < 2; half++)
        shared[half] = opposite[half] = own[half] = other[half] = _mm256_setzero_si256();
    int place = 0;
#define LOOK_UP(which) \
    _mm256_shuffle_epi8( \
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)query->table.nibbles[which][place])), \
        _mm256_loadu_si256((const __m256i *)(block + query->column[place] * 64 + half * 32)))
#pragma GCC unroll 4
    for (int stop = query->shared; place < stop; place++)
        for (int half = 0; half < 2; half++)
            shared[half] = _mm256_add_epi8(shared[half], LOOK_UP(0));
#pragma GCC unroll 4
    for (int stop = place + query->opposite; place < stop; place++)
        for (int half = 0; half < 2; half++)
            opposite[half] = _mm256_add_epi8(opposite[half], LOOK_UP(0));
#pragma GCC unroll 4
    for (int stop = place + query->own; place < stop; place++)
        for (int half = 0; half < 2; half++) {
            own[half] = _mm256_adds_epu8(own[half], LOOK_UP(0));
            other[half] = _mm256_adds_epu8(other[half], LOOK_UP(1));
        }
#undef LOOK_UP
    __m256i radius = _mm256_set1_epi8((char)scan->radius), all = _mm256_set1_epi8((char)(4 * query->opposite));
    uint8_t distances[2][64];
    uint64_t hits[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
        /* A byte holds 256 only as 255, which is no hit either: the radius is below. */
        __m256i found[2] = {
            _mm256_adds_epu8(_mm256_adds_epu8(shared[half], own[half]), opposite[half]),
            _mm256_adds_epu8(
                _mm256_adds_epu8(shared[half], other[half]), _mm256_sub_epi8(all, opposite[half]))};
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            __m256i near = _mm256_cmpeq_epi8(_mm256_min_epu8(found[mirrored], radius), found[mirrored]);
            hits[mirrored] |= (uint64_t)(uint32_t)_mm256_movemask_epi8(near) << (32 * half);
            _mm256_storeu_si256((__m256i *)(distances[mirrored] + 32 * half), found[mirrored]);
        }
    }
    if (hits[0])
        keep_all(scan, hits[0], number, first, distances[0], 0);
    if (hits[1] && scan->mirrored)
        keep_all(scan, hits[1], number, first, distances[1], 1);
}

/* One query against 128 references, whose bytes lie in two blocks of [32, 64]. */
__attribute__((target("avx512f,avx512bw,avx512bitalg"))) static void compare_avx512(
    Scan *scan, const Query *query, Py_ssize_t number, const uint8_t *blocks, Py_ssize_t first)
{
    __m512i shared[2], opposite[2], own[2], other[2];
    for (int half = 0; half < 2; half++)
        shared[half] = opposite[half] = own[half] = other[half] = _mm512_setzero_si512();
    int place = 0;
#define DISTANCE(which) \
    _mm512_popcnt_epi8(_mm512_xor_si512( \
        _mm512_set1_epi32((int)query->table.bytes[which][place]), \
        _mm512_loadu_si512(blocks + half * 64 * HASH + query->column[place] * 64)))
#pragma GCC unroll 4
    for (int stop = query->shared; place < stop; place++)
        for (int half = 0; half < 2; half++)
            shared[half] = _mm512_add_epi8(shared[half], DISTANCE(0));
#pragma GCC unroll 4
    for (int stop = place + query->opposite; place < stop; place++)
        for (int half = 0; half < 2; half++)
            opposite[half] = _mm512_add_epi8(opposite[half], DISTANCE(0));
#pragma GCC unroll 4
    for (int stop = place + query->own; place < stop; place++)
        for (int half = 0; half < 2; half++) {
            own[half] = _mm512_adds_epu8(own[half], DISTANCE(0));
            other[half] = _mm512_adds_epu8(other[half], DISTANCE(1));
        }
#undef DISTANCE
    __m512i radius = _mm512_set1_epi8((char)scan->radius), all = _mm512_set1_epi8((char)(8 * query->opposite));
    for (int half = 0; half < 2; half++) {
        uint8_t distances[64];
        __m512i found = _mm512_adds_epu8(_mm512_adds_epu8(shared[half], own[half]), opposite[half]);
        uint64_t hits = _mm512_cmple_epu8_mask(found, radius);
        if (hits) {
            _mm512_storeu_si512(distances, found);
            keep_all(scan, hits, number, first + 64 * half, distances, 0);
        }
        found = _mm512_adds_epu8(
            _mm512_adds_epu8(shared[half], other[half]), _mm512_sub_epi8(all, opposite[half]));
        hits = _mm512_cmple_epu8_mask(found, radius);
        if (hits && scan->mirrored) {
            _mm512_storeu_si512(distances, found);
            keep_all(scan, hits, number, first + 64 * half, distances, 1);
        }
    }
}

/* Compare all queries with all references, by columns of 8 bits (AVX-512) or 4 (AVX2). */
static void scan_columns(Scan *scan, int bits)
{
    enum { BLOCK = 64 * HASH };
    uint8_t *blocks = aligned_alloc(64, TILE * HASH + TILE * HASH * 2);
    Query *queries = malloc((size_t)scan->queries * sizeof(Query)); /* fewer than 2^31, see `scan` */
    if (!blocks || !queries) {
        free(blocks);
        free(queries);
        scan->failed = 1;
        return;
    }
    uint8_t *nibbles = blocks + TILE * HASH;
    for (Py_ssize_t query = 0; query < scan->queries; query++)
        prepare(scan, query, bits, queries + query);
    int tile = bits == 8 ? TILE : TILE / 2; /* nibbles take twice the room */
    for (Py_ssize_t start = 0; start < scan->count && !scan->failed; start += tile) {
        Py_ssize_t rows = scan->count - start < tile ? scan->count - start : tile;
        turn(scan, start, rows, blocks);
        if (bits == 8) {
            if (rows % 128 && rows % 128 <= 64) /* the second half of the last pair of blocks */
                memset(blocks + (rows / 64 + (rows % 64 != 0)) * BLOCK, 0, BLOCK);
            for (Py_ssize_t query = 0; query < scan->queries; query++)
                for (Py_ssize_t row = 0; row < rows; row += 128)
                    compare_avx512(scan, queries + query, query, blocks + row * HASH, start + row);
            continue;
        }
        for (Py_ssize_t column = 0; column < (rows + 63) / 64 * HASH; column++)
            for (int i = 0; i < 64; i++) {
                nibbles[column * 128 + i] = blocks[column * 64 + i] & 15;
                nibbles[column * 128 + 64 + i] = blocks[column * 64 + i] >> 4;
            }
        for (Py_ssize_t query = 0; query < scan->queries; query++)
            for (Py_ssize_t row = 0; row < rows; row += 64)
                compare_avx2(scan, queries + query, query, nibbles + row * HASH * 2, start + row);
    }
    free(blocks);
    free(queries);
}

/* The best level of this processor: 2 has AVX-512 with BITALG, 1 AVX2, 0 neither. */
static int best_level(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512bitalg"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}

static int is_aligned(const Py_buffer *buffer, size_t size)
{
    return (uintptr_t)buffer->buf % size == 0;
}

static PyObject *scan_pairs(PyObject *module, PyObject *args)
{
    Py_buffer hashes = {0}, mirrored = {0}, references = {0}, weights = {0}, colours = {0}, least = {0};
    int radius, level = best_level();
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(
            args, "y*z*y*iz*z*z*|i:scan", &hashes, &mirrored, &references, &radius, &weights, &colours, &least,
            &level))
        return NULL;
    Scan *scan = calloc(1, sizeof(Scan));
    if (!scan) {
        PyErr_NoMemory();
        goto end;
    }
    Py_ssize_t queries = hashes.len / HASH, count = references.len / HASH;
    if (hashes.len % HASH || references.len % HASH || (mirrored.obj && mirrored.len != hashes.len))
        PyErr_SetString(PyExc_ValueError, "hashes are 32 bytes each, mirrored ones as many as the others");
    else if (queries > INT_MAX / (Py_ssize_t)sizeof(Query))
        PyErr_SetString(PyExc_ValueError, "fewer queries can be searched for at a time");
    else if (radius < 0 || radius > 254)
        PyErr_SetString(PyExc_ValueError, "the radius is from 0 to 254");
    else if (level < 1 || level > best_level())
        PyErr_Format(PyExc_ValueError, "this processor has no level %d", level);
    else if (
        weights.obj && (weights.len != 4 * queries * TERMS || !colours.obj || colours.len / TERMS != count ||
                        colours.len % TERMS || !least.obj || least.len != (Py_ssize_t)sizeof scan->least ||
                        !is_aligned(&weights, 2)))
        PyErr_SetString(
            PyExc_ValueError, "weights are int16 [2, q, 256], colours int8 [n, 256], least int32 [257]");
    else {
        scan->hashes = hashes.buf;
        scan->mirrored = mirrored.obj ? mirrored.buf : NULL;
        scan->references = references.buf;
        scan->weights = weights.obj ? weights.buf : NULL;
        scan->colours = colours.buf;
        if (weights.obj)
            memcpy(scan->least, least.buf, sizeof scan->least);
        scan->queries = queries;
        scan->count = count;
        scan->radius = radius;
        Py_BEGIN_ALLOW_THREADS
        if (queries && count)
            scan_columns(scan, level == 2 ? 8 : 4);
        flush(scan);
        Py_END_ALLOW_THREADS
        result = scan->failed ? PyErr_NoMemory()
                              : PyBytes_FromStringAndSize(
                                    (const char *)scan->found, (Py_ssize_t)(scan->size * sizeof(Pair)));
        free(scan->found);
    }
    free(scan);
end:
    PyBuffer_Release(&hashes);
    PyBuffer_Release(&references);
    PyBuffer_Release(&mirrored); /* nothing where it was None */
    PyBuffer_Release(&weights);
    PyBuffer_Release(&colours);
    PyBuffer_Release(&least);
    return result;
}

static PyMethodDef methods[] = {
    {"scan", scan_pairs, METH_VARARGS,
     "scan(hashes, mirrored, references, radius, weights, colours, least[, level]) -> pairs as bytes"},
    {NULL, NULL, 0, NULL},
};

static int start(PyObject *module)
{
    int level = best_level();
    if (level)
        return PyModule_AddIntConstant(module, "LEVEL", level);
    PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
    return -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "dedup._kernels", "Exact search among hashes; see dedup/search.py.", 0, methods,
    slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&definition);
}
