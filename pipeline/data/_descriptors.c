/* Describe thumbnails: signs and values of their low frequencies; descriptors.py has the definition, and does the
 * same in numpy where this module is not built.
 *
 * A sum of doubles may differ from numpy's in its last bits, which rounding to 0.001 takes away there as here; luma
 * and chroma are rounded to float after each step, so that they are the same on every machine.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { SIDE = 64, HALF = SIDE / 2, PIXELS = SIDE * SIDE, LOW = 16, TERMS = LOW * LOW, HASH = TERMS / 8 };
enum { LUMA_TERMS = 168, CHROMA_TERMS = 44, PACKED = 2 * HASH + 2 * TERMS + 1, MIDDLE = 127 };

static const float YCC[3][3] = {
    {0.299f, 0.587f, 0.114f}, {-0.168736f, -0.331264f, 0.5f}, {0.5f, -0.418688f, -0.081312f}};

typedef void Describe(const uint8_t *, const double *, const uint8_t *, int, uint8_t *);

/* Levels of red, green and blue to those of luma or of one chroma. */
static inline __attribute__((always_inline)) void mix(const uint8_t *rgb, const float *by, float *out)
{
    const float red = by[0];
    const double green = by[1], blue = by[2];
    for (int i = 0; i < PIXELS; i++) {
        float sum = (float)rgb[3 * i] * red;
        sum = (float)((double)sum + (double)rgb[3 * i + 1] * green);
        out[i] = (float)((double)sum + (double)rgb[3 * i + 2] * blue);
    }
}

/* The first `down` x `across` frequencies of a plane, rounded to 0.001, at [vertical * LOW + horizontal].
 *
 * Each basis function is its own mirror image but for the sign, so that pairs of rows, and of columns, are added or
 * subtracted first. */
static inline __attribute__((always_inline)) void transform(
    const float *plane, const double *basis, int down, int across, double *out)
{
    double folded[2][HALF][SIDE], lines[SIDE][LOW], columns[2][HALF][LOW];
    for (int n = 0; n < HALF; n++)
        for (int x = 0; x < SIDE; x++) {
            double first = plane[n * SIDE + x], last = plane[(SIDE - 1 - n) * SIDE + x];
            folded[0][n][x] = first + last;
            folded[1][n][x] = first - last;
        }
    memset(lines, 0, sizeof lines);
    for (int k = 0; k < down; k++) {
        double sums[SIDE] = {0};
        for (int n = 0; n < HALF; n++)
            for (int x = 0; x < SIDE; x++)
                sums[x] += basis[k * SIDE + n] * folded[k % 2][n][x];
        for (int x = 0; x < SIDE; x++)
            lines[x][k] = sums[x];
    }
    for (int n = 0; n < HALF; n++)
        for (int v = 0; v < LOW; v++) {
            columns[0][n][v] = lines[n][v] + lines[SIDE - 1 - n][v];
            columns[1][n][v] = lines[n][v] - lines[SIDE - 1 - n][v];
        }
    for (int k = 0; k < across; k++) {
        double sums[LOW] = {0};
        for (int n = 0; n < HALF; n++)
            for (int v = 0; v < LOW; v++)
                sums[v] += basis[k * SIDE + n] * columns[k % 2][n][v];
        for (int v = 0; v < LOW; v++)
            out[v * LOW + k] = rint(sums[v] * 1000) / 1000;
    }
}

/* The 128th smallest of 255 values (Hoare's selection). */
static double middle_of(const double *values)
{
    double left[TERMS - 1];
    int low = 0, high = TERMS - 2;
    memcpy(left, values, sizeof left);
    while (low < high) {
        double pivot = left[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (left[i] < pivot)
                i++;
            while (left[j] > pivot)
                j--;
            if (i <= j) {
                double kept = left[i];
                left[i++] = left[j];
                left[j--] = kept;
            }
        }
        if (MIDDLE <= j)
            high = j;
        else if (MIDDLE >= i)
            low = i;
        else
            break;
    }
    return left[MIDDLE];
}

/* Which frequencies, without the mean, exceed their median; the first bit of a byte is its highest. */
static void sign_bits(const double *frequencies, uint8_t *hash)
{
    double median = middle_of(frequencies + 1);
    memset(hash, 0, HASH);
    for (int i = 1; i < TERMS; i++)
        hash[i / 8] |= (uint8_t)((frequencies[i] > median) << (7 - i % 8));
}

/* Steps between neighbours in whole percent of the range, of `count` levels and as many others. */
static inline __attribute__((always_inline)) int steps_of(const uint8_t *some, const uint8_t *others, int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        int step = some[i] > others[i] ? some[i] - others[i] : others[i] - some[i];
        sum += (uint16_t)(step * 100) / 255;
    }
    return sum;
}

static inline __attribute__((always_inline)) int quality_of(const uint8_t *levels)
{
    int sum = steps_of(levels, levels + SIDE, PIXELS - SIDE);
    for (int y = 0; y < SIDE; y++)
        sum += steps_of(levels + y * SIDE, levels + y * SIDE + 1, SIDE - 1);
    return sum / 90 < 100 ? sum / 90 : 100;
}

static inline __attribute__((always_inline)) void describe_one(
    const uint8_t *rgb, const double *basis, const uint8_t *places, int with_colours, uint8_t *out)
{
    float luma[PIXELS], plane[PIXELS];
    uint8_t levels[PIXELS];
    double low[TERMS];
    mix(rgb, YCC[0], luma);
    for (int i = 0; i < PIXELS; i++)
        plane[i] = levels[i] = (uint8_t)rintf(luma[i]);
    transform(plane, basis, LOW, LOW, low);
    sign_bits(low, out);
    out[PACKED - 1] = (uint8_t)quality_of(levels);
    if (!with_colours)
        return;
    for (int i = 1; i < TERMS; i += 2)
        low[i] = -low[i];
    sign_bits(low, out + HASH);
    for (int channel = 0, first = 0; channel < 3; channel++) {
        int count = channel ? CHROMA_TERMS : LUMA_TERMS, down = 1, across = 1;
        const uint8_t *at = places + !channel; /* luma goes without its mean */
        for (int i = 0; i < count; i++) {
            down = at[i] / LOW >= down ? at[i] / LOW + 1 : down;
            across = at[i] % LOW >= across ? at[i] % LOW + 1 : across;
        }
        if (channel)
            mix(rgb, YCC[channel], plane);
        transform(channel ? plane : luma, basis, down, across, low);
        for (int i = 0; i < count; i++, first++) {
            uint16_t term = (uint16_t)(int16_t)rint(low[at[i]]);
            out[2 * HASH + 2 * first] = (uint8_t)term;
            out[2 * HASH + 2 * first + 1] = (uint8_t)(term >> 8);
        }
    }
}

static void describe_plainly(
    const uint8_t *rgb, const double *basis, const uint8_t *places, int with_colours, uint8_t *out)
{
    describe_one(rgb, basis, places, with_colours, out);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,fma"))) static void describe_avx2(
    const uint8_t *rgb, const double *basis, const uint8_t *places, int with_colours, uint8_t *out)
{
    describe_one(rgb, basis, places, with_colours, out);
}

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
#define describe_avx2 describe_plainly
static int has_avx2(void) { return 0; }
#endif

static PyObject *describe(PyObject *module, PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer rgb, basis, places;
    int with_colours, with_avx2 = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*p|p:describe", &rgb, &basis, &places, &with_colours, &with_avx2))
        return NULL;
    if (rgb.len % (3 * PIXELS) || basis.len != LOW * SIDE * (Py_ssize_t)sizeof(double) || places.len != TERMS
        || (uintptr_t)basis.buf % sizeof(double))
        PyErr_SetString(PyExc_ValueError, "expected uint8 [n, 64, 64, 3], float64 [16, 64] and uint8 [256]");
    else if ((result = PyByteArray_FromStringAndSize(NULL, rgb.len / (3 * PIXELS) * PACKED))) {
        uint8_t *out = (uint8_t *)PyByteArray_AsString(result);
        Describe *one = with_avx2 && has_avx2() ? describe_avx2 : describe_plainly;
        memset(out, 0, (size_t)PyByteArray_Size(result));
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < rgb.len / (3 * PIXELS); i++)
            one((const uint8_t *)rgb.buf + i * 3 * PIXELS, basis.buf, places.buf, with_colours, out + i * PACKED);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&rgb);
    PyBuffer_Release(&basis);
    PyBuffer_Release(&places);
    return result;
}

static PyMethodDef methods[] = {
    {"describe", describe, METH_VARARGS,
     "describe(thumbnails, basis, places, with_colours[, with_avx2]) -> bytearray"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_descriptors", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__descriptors(void) { return PyModule_Create(&definition); }
