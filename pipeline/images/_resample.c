/* Make pictures smaller: weighted sums of rows, then of columns; resample.py has the rule, and does the same in
 * numpy where this module is not built.
 *
 * The weights are whole numbers, so that every processor gives the same bytes; they are computed from those of
 * doubles without a fused multiplication. A picture is as large as its buffer says. What lies beyond its last
 * row or column has the weight 0: for rows the last one is read instead, for columns zeros.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLOPE (-0.5)
enum { BITS = 14, HALF = 1 << (BITS - 1), CHANNELS = 3, MOST = 1 << 24, SLACK = 32 };

typedef struct {
    int32_t *starts;  /* the first of the rows, or columns, that each one is made of */
    int16_t *weights; /* [count, taps], in parts of 2^14; taps is a multiple of four */
    int32_t *used;    /* taps of each one up to its last weight that is not 0: an even number */
    Py_ssize_t count, taps;
} Table;

typedef int MakeTable(Table *, Py_ssize_t, double, Py_ssize_t, int);
typedef void Rows(const uint8_t *const *, const int16_t *, Py_ssize_t, Py_ssize_t, uint8_t *);

static inline uint8_t level_of(int32_t sum)
{
    sum = (sum + HALF) >> BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One row of sums of `taps` rows of `size` bytes, from the byte `from` on. */
static void weigh_rows_from(
    const uint8_t *const *rows, const int16_t *weights, Py_ssize_t taps, Py_ssize_t from, Py_ssize_t size,
    uint8_t *out)
{
    for (Py_ssize_t i = from; i < size; i++) {
        int32_t sum = 0;
        for (Py_ssize_t t = 0; t < taps; t++)
            sum += weights[t] * rows[t][i];
        out[i] = level_of(sum);
    }
}

static void weigh_rows(
    const uint8_t *const *rows, const int16_t *weights, Py_ssize_t taps, Py_ssize_t size, uint8_t *out)
{
    weigh_rows_from(rows, weights, taps, 0, size, out);
}

static void weigh_columns(const uint8_t *row, const Table *table, uint8_t *out)
{
    for (Py_ssize_t i = 0; i < table->count; i++) {
        const uint8_t *at = row + (size_t)table->starts[i] * CHANNELS;
        const int16_t *weights = table->weights + i * table->taps;
        for (int c = 0; c < CHANNELS; c++) {
            int32_t sum = 0;
            for (Py_ssize_t t = 0; t < table->used[i]; t++)
                sum += weights[t] * at[t * CHANNELS + c];
            *out++ = level_of(sum);
        }
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void weigh_rows_avx2(
    const uint8_t *const *rows, const int16_t *weights, Py_ssize_t taps, Py_ssize_t size, uint8_t *out)
{
    const __m256i zero = _mm256_setzero_si256();
    Py_ssize_t i = 0;
    for (; i + 32 <= size; i += 32) {
        __m256i a = _mm256_set1_epi32(HALF), b = a, c = a, d = a;
        for (Py_ssize_t t = 0; t < taps; t += 2) {
            __m256i one = _mm256_loadu_si256((const __m256i *)(rows[t] + i));
            __m256i next = _mm256_loadu_si256((const __m256i *)(rows[t + 1] + i));
            int32_t both;
            memcpy(&both, weights + t, sizeof both);
            __m256i by = _mm256_set1_epi32(both);
            __m256i low = _mm256_unpacklo_epi8(one, next), high = _mm256_unpackhi_epi8(one, next);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), by));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), by));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), by));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), by));
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, BITS), _mm256_srai_epi32(b, BITS));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, BITS), _mm256_srai_epi32(d, BITS));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi16(a, c));
    }
    weigh_rows_from(rows, weights, taps, i, size, out);
}

/* Four rows at a time, two in each register, pairs of pixels in each half, channel by channel. */
__attribute__((target("avx2"))) static void weigh_columns_avx2(
    const uint8_t *row, Py_ssize_t stride, const Table *table, uint8_t *out)
{
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    Py_ssize_t next = table->count * CHANNELS;
    for (Py_ssize_t i = 0; i < table->count; i++) {
        const uint8_t *at = row + (size_t)table->starts[i] * CHANNELS;
        const int16_t *weights = table->weights + i * table->taps;
        __m256i a = _mm256_set1_epi32(HALF), b = a;
        for (Py_ssize_t t = 0; t < table->used[i]; t += 4, at += 4 * CHANNELS) {
            int32_t pairs[2];
            memcpy(pairs, weights + t, sizeof pairs);
            __m256i by = _mm256_set1_epi32(pairs[0]), then = _mm256_set1_epi32(pairs[1]);
            __m256i x = _mm256_loadu2_m128i((const __m128i *)(at + stride), (const __m128i *)at);
            __m256i y = _mm256_loadu2_m128i((const __m128i *)(at + 3 * stride), (const __m128i *)(at + 2 * stride));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_shuffle_epi8(x, first), by));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_shuffle_epi8(y, first), by));
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_shuffle_epi8(x, second), then));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_shuffle_epi8(y, second), then));
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, BITS), _mm256_srai_epi32(b, BITS));
        a = _mm256_packus_epi16(a, a); /* in each half: a pixel of one row, four bytes, then one of the other */
        uint64_t even = (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(a));
        uint64_t odd = (uint64_t)_mm_cvtsi128_si64(_mm256_extracti128_si256(a, 1));
        uint8_t *to = out + i * CHANNELS;
        if (i + 1 < table->count) { /* a byte too many, which the next pixel mends */
            uint32_t four[4] = {(uint32_t)even, (uint32_t)odd, (uint32_t)(even >> 32), (uint32_t)(odd >> 32)};
            for (int y = 0; y < 4; y++)
                memcpy(to + y * next, four + y, 4);
            continue;
        }
        memcpy(to, &even, CHANNELS);
        memcpy(to + next, &odd, CHANNELS);
        even >>= 32, odd >>= 32;
        memcpy(to + 2 * next, &even, CHANNELS);
        memcpy(to + 3 * next, &odd, CHANNELS);
    }
}

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
#else
#define weigh_rows_avx2 weigh_rows
#define weigh_columns_avx2(row, stride, table, out) (void)0
static int has_avx2(void) { return 0; }
#endif

static int weigh(
    const Py_buffer *pixels, const Table *rows, const Table *columns, uint8_t *out, int with_avx2)
{
    Py_ssize_t height = pixels->shape[0], size = pixels->shape[1] * CHANNELS;
    Rows *weigh_down = with_avx2 ? weigh_rows_avx2 : weigh_rows;
    Py_ssize_t stride = size + columns->taps * CHANNELS + SLACK;
    const uint8_t **taken = malloc((size_t)rows->taps * sizeof *taken);
    uint8_t *four = calloc(4, (size_t)stride);
    int done = taken && four;
    for (Py_ssize_t y = 0; done && y < rows->count; y++) {
        for (Py_ssize_t t = 0; t < rows->used[y]; t++) {
            Py_ssize_t at = rows->starts[y] + t;
            taken[t] = (const uint8_t *)pixels->buf + (at < height ? at : height - 1) * pixels->strides[0];
        }
        weigh_down(taken, rows->weights + y * rows->taps, rows->used[y], size, four + y % 4 * stride);
        if (with_avx2 && y % 4 == 3)
            weigh_columns_avx2(four, stride, columns, out + (y - 3) * columns->count * CHANNELS);
        else if (!with_avx2 || y >= rows->count - rows->count % 4)
            weigh_columns(four + y % 4 * stride, columns, out + y * columns->count * CHANNELS);
    }
    free(taken);
    free(four);
    return done;
}

static inline double cubic(double distance)
{
    double near = ((SLOPE + 2) * distance - (SLOPE + 3)) * distance * distance + 1;
    double far = SLOPE * (((distance - 5) * distance + 8) * distance - 4);
    return distance < 1 ? near : distance < 2 ? far : 0;
}

static inline double least(double a, double b) { return a < b ? a : b; }
static inline double most(double a, double b) { return a > b ? a : b; }

/* How the first `extent` of so many pixels make `count`: what each is made of, and by which weights. */
static inline __attribute__((always_inline)) int fill_table(
    Table *table, Py_ssize_t pixels, double extent, Py_ssize_t count, int area)
{
    double scale = extent / (double)count, support = (area ? 0.5 : 2.0) * scale;
    Py_ssize_t taps = (Py_ssize_t)ceil(2 * support) + 1;
    taps += (4 - taps % 4) % 4;
    table->count = count;
    table->taps = taps;
    table->starts = malloc((size_t)count * sizeof *table->starts);
    table->weights = calloc((size_t)count, (size_t)taps * sizeof *table->weights);
    table->used = malloc((size_t)count * sizeof *table->used);
    double *weights = malloc((size_t)taps * sizeof *weights);
    int done = table->starts && table->weights && table->used && weights;
    for (Py_ssize_t i = 0; done && i < count; i++) {
        double centre = ((double)i + 0.5) * scale, first = floor(centre - support + 1e-6), total = 0;
        int16_t *parts = table->weights + i * taps;
        Py_ssize_t largest = 0;
        int32_t left = 1 << BITS;
        if (first < 0)
            first = 0;
        for (Py_ssize_t t = 0; t < taps; t++) {
            double place = first + (double)t;
            double weight = area ? most(least(place + 1, centre + support) - most(place, centre - support), 0)
                                 : cubic(fabs(place + 0.5 - centre) / scale);
            weights[t] = place >= (double)pixels ? 0 : weight;
        }
        for (Py_ssize_t t = 0; t < taps; t++) {
            total += weights[t];
            if (weights[t] > weights[largest])
                largest = t;
        }
        total = (1 << BITS) / total;
        for (Py_ssize_t t = 0; t < taps; t++) {
            parts[t] = (int16_t)rint(weights[t] * total);
            left -= parts[t];
        }
        parts[largest] = (int16_t)(parts[largest] + left); /* so that a flat picture stays as it is */
        table->starts[i] = (int32_t)first;
        Py_ssize_t used = taps;
        while (used > 2 && !parts[used - 1] && !parts[used - 2])
            used -= 2;
        table->used[i] = (int32_t)used;
    }
    free(weights);
    return done;
}

static int make_table(Table *table, Py_ssize_t pixels, double extent, Py_ssize_t count, int area)
{
    return fill_table(table, pixels, extent, count, area);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static int make_table_avx2( /* rounds by instructions, not by calls */
    Table *table, Py_ssize_t pixels, double extent, Py_ssize_t count, int area)
{
    return fill_table(table, pixels, extent, count, area);
}
#else
#define make_table_avx2 make_table
#endif

static int shrunk(
    const Py_buffer *pixels, double columns, double rows, Py_ssize_t width, Py_ssize_t height, int area,
    int with_avx2, uint8_t *out)
{
    Table down = {0}, across = {0};
    MakeTable *make = with_avx2 ? make_table_avx2 : make_table;
    int done = make(&down, pixels->shape[0], rows, height, area)
               && make(&across, pixels->shape[1], columns, width, area)
               && weigh(pixels, &down, &across, out, with_avx2);
    free(down.starts);
    free(down.weights);
    free(down.used);
    free(across.starts);
    free(across.weights);
    free(across.used);
    return done;
}

static PyObject *shrink(PyObject *module, PyObject *args)
{
    PyObject *picture, *result = NULL;
    Py_buffer pixels = {0};
    Py_ssize_t width, height;
    double columns, rows;
    int area, with_avx2 = 1, done;
    (void)module;
    if (!PyArg_ParseTuple(
            args, "Oddnnp|p:shrink", &picture, &columns, &rows, &width, &height, &area, &with_avx2)
        || PyObject_GetBuffer(picture, &pixels, PyBUF_STRIDES) < 0)
        return NULL;
    if (pixels.ndim != 3 || pixels.itemsize != 1 || pixels.shape[2] != CHANNELS || pixels.strides[2] != 1
        || pixels.strides[1] != CHANNELS || pixels.shape[0] > MOST || pixels.shape[1] > MOST)
        PyErr_SetString(PyExc_ValueError, "a picture is uint8 [height, width, 3], its rows without gaps");
    else if (!(rows <= (double)pixels.shape[0] && columns <= (double)pixels.shape[1]))
        PyErr_SetString(PyExc_ValueError, "the picture is smaller than its extent");
    else if (width < 1 || height < 1 || (double)width > columns || (double)height > rows)
        PyErr_SetString(PyExc_ValueError, "pictures are only made smaller");
    else if ((result = PyByteArray_FromStringAndSize(NULL, width * height * CHANNELS))) {
        uint8_t *out = (uint8_t *)PyByteArray_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        done = shrunk(&pixels, columns, rows, width, height, area, with_avx2 && has_avx2(), out);
        Py_END_ALLOW_THREADS
        if (!done) {
            Py_CLEAR(result);
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&pixels);
    return result;
}

static PyMethodDef methods[] = {
    {"shrink", shrink, METH_VARARGS, "shrink(pixels, columns, rows, width, height, area[, with_avx2]) -> bytearray"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_resample", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resample(void) { return PyModule_Create(&definition); }
