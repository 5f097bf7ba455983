/* Decode a square of a JPEG by libjpeg-turbo, of which the rest is read but makes no pixels.
 *
 * The library is opened while Python runs: Pillow's wheels carry it, without headers. So its interface, that of
 * libjpeg 6b, is written down here; the library refuses a structure of another version or size. A warning of the
 * library, or a file that ends early, is a failure: the caller then decodes the whole picture, which names the
 * fault.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 62, RGB = 2, FASTEST = 1, CHANNELS = 3, MOST = 65535, TOGETHER = 16, WIDER = 64 };

/* From libjpeg-turbo's jpeglib.h, version 62; fields that are not used stand together. */
struct decoder;

struct errors {
    void (*error_exit)(struct decoder *);
    void (*emit_message)(struct decoder *, int);
    void (*output_message)(struct decoder *);
    void *others[18];
};

struct source {
    const uint8_t *next;
    size_t left;
    void (*init)(struct decoder *);
    int (*fill)(struct decoder *);
    void (*skip)(struct decoder *, long);
    int (*resync)(struct decoder *, int);
    void (*term)(struct decoder *);
};

struct decoder {
    struct errors *errors;
    void *memory, *progress, *client;
    int is_decoder, state;
    struct source *source;
    unsigned width, height;
    int components, stored_space, out_space;
    unsigned scale[2];
    double gamma;
    int buffered, raw, dct_method, fancy_upsampling, output[8];
    unsigned output_width, output_height;
    int sizes[4];
    void *colours;
    unsigned output_row;
    int progress_of_scans[4];
    void *others[55];
};

_Static_assert(sizeof(struct errors) == 168 && sizeof(struct source) == 56, "as in jpeglib.h");
_Static_assert(sizeof(struct decoder) == 632 && offsetof(struct decoder, output_row) == 168, "as in jpeglib.h");

static struct {
    struct errors *(*std_error)(struct errors *);
    void (*create)(struct decoder *, int, size_t);
    int (*read_header)(struct decoder *, int);
    int (*start)(struct decoder *);
    void (*crop)(struct decoder *, unsigned *, unsigned *);
    unsigned (*skip)(struct decoder *, unsigned);
    unsigned (*read)(struct decoder *, uint8_t **, unsigned);
    int (*finish)(struct decoder *);
    void (*destroy)(struct decoder *);
    int (*resync)(struct decoder *, int);
} library;

static const char *const NAMES[] = {
    "jpeg_std_error",     "jpeg_CreateDecompress", "jpeg_read_header",     "jpeg_start_decompress",
    "jpeg_crop_scanline", "jpeg_skip_scanlines",   "jpeg_read_scanlines",  "jpeg_finish_decompress",
    "jpeg_destroy_decompress", "jpeg_resync_to_restart"};

struct failure {
    struct errors errors;
    jmp_buf place;
};

static void fail(struct decoder *decoder) { longjmp(((struct failure *)decoder->errors)->place, 1); }

static void warn(struct decoder *decoder, int level)
{
    if (level < 0)
        fail(decoder);
}

static int ended(struct decoder *decoder)
{
    fail(decoder);
    return 0;
}

static void skip_bytes(struct decoder *decoder, long count)
{
    if (count > 0) {
        if ((size_t)count > decoder->source->left)
            fail(decoder);
        decoder->source->next += count;
        decoder->source->left -= (size_t)count;
    }
}

static void nothing(struct decoder *decoder) { (void)decoder; }

/* Rows up to `end` of the picture go to `rows`, one after the other. */
static void read_rows(struct decoder *decoder, unsigned end, uint8_t **rows)
{
    for (unsigned first = decoder->output_row; decoder->output_row < end;)
        library.read(decoder, rows + (decoder->output_row - first), end - decoder->output_row);
}

/* The bytes from one spare row to the next, of the side and the columns that a crop is widened by. Rows begin
 * between two multiples of 32: at a multiple the library writes them past the core's caches. */
static size_t stride_of(unsigned side) { return ((size_t)(side + WIDER) * CHANNELS + 31) & ~(size_t)31; }

/* Decode the square into `out`; `spare` has room for TOGETHER rows. */
static int decode(
    const uint8_t *data, size_t size, unsigned left, unsigned top, unsigned side, uint8_t *out, uint8_t *spare)
{
    struct failure failure;
    struct decoder decoder = {0};
    struct source source = {data, size, nothing, ended, skip_bytes, library.resync, nothing};
    uint8_t *rows[TOGETHER];
    const size_t row = (size_t)side * CHANNELS, stride = stride_of(side);

    library.std_error(&failure.errors);
    failure.errors.error_exit = fail;
    failure.errors.emit_message = warn;
    failure.errors.output_message = nothing;
    decoder.errors = &failure.errors;
    if (setjmp(failure.place)) {
        library.destroy(&decoder);
        return 0;
    }
    library.create(&decoder, VERSION, sizeof decoder);
    decoder.source = &source;
    library.read_header(&decoder, 1);
    decoder.out_space = RGB;
    decoder.dct_method = FASTEST;
    decoder.fancy_upsampling = 0;
    library.start(&decoder);
    if (left > decoder.output_width || side > decoder.output_width - left || top > decoder.output_height
        || side > decoder.output_height - top)
        fail(&decoder);
    const unsigned height = decoder.output_height;
    unsigned first = left, columns = side;
    if (side < decoder.output_width)
        library.crop(&decoder, &first, &columns); /* widens them to whole blocks */
    const size_t before = (size_t)(left - first) * CHANNELS, pitch = (size_t)columns * CHANNELS;
    if (first > left || before + row > pitch || pitch > stride)
        fail(&decoder);
    /* Rows may share their colours by twos, which the library makes at once: each skip is of an even number. */
    if (top > 1)
        library.skip(&decoder, top & ~1u);
    if (top & 1)
        read_rows(&decoder, top, (uint8_t *[]){spare});
    for (unsigned at = 0; at < side;) {
        unsigned count = side - at < TOGETHER ? side - at : TOGETHER;
        for (unsigned i = 0; i < count; i++)
            rows[i] = pitch == row ? out + (at + i) * row : spare + i * stride;
        read_rows(&decoder, top + at + count, rows);
        for (unsigned i = 0; i < count && pitch != row; i++)
            memcpy(out + (at + i) * row, rows[i] + before, row);
        at += count;
    }
    if (decoder.output_row & 1 && decoder.output_row < height)
        read_rows(&decoder, decoder.output_row + 1, (uint8_t *[]){spare});
    /* The last rows are read as well: at a skip to the end the library would not look at what it skips. */
    if (height - decoder.output_row > 2)
        library.skip(&decoder, (height - decoder.output_row - 1) & ~1u);
    read_rows(&decoder, height, (uint8_t *[]){spare, spare});
    library.finish(&decoder);
    library.destroy(&decoder);
    return 1;
}

static PyObject *open_library(PyObject *module, PyObject *args)
{
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "s:open", &path))
        return NULL;
    void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL), *found[sizeof NAMES / sizeof *NAMES];
    if (opened == NULL)
        Py_RETURN_FALSE;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if ((found[i] = dlsym(opened, NAMES[i])) == NULL) {
            dlclose(opened);
            Py_RETURN_FALSE;
        }
    memcpy(&library, found, sizeof library);
    Py_RETURN_TRUE;
}

static PyObject *decode_square(PyObject *module, PyObject *args)
{
    Py_buffer data = {0}, out = {0};
    unsigned left, top, side;
    int done = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*IIIw*:decode", &data, &left, &top, &side, &out))
        return NULL;
    uint8_t *spare = NULL;
    if (library.std_error == NULL)
        PyErr_SetString(PyExc_ValueError, "no library is open");
    else if (side < 1 || side > MOST || out.len != (Py_ssize_t)side * side * CHANNELS)
        PyErr_SetString(PyExc_ValueError, "the result has other bytes than the square");
    else if (!(spare = malloc(stride_of(side) * TOGETHER + 32)))
        PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        done = decode(
            data.buf, (size_t)data.len, left, top, side, out.buf, spare + ((16 - (uintptr_t)spare) & 31));
        Py_END_ALLOW_THREADS
    }
    free(spare);
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(done);
}

static PyMethodDef methods[] = {
    {"open", open_library, METH_VARARGS, "open(path) -> whether the library has what is needed"},
    {"decode", decode_square, METH_VARARGS, "decode(data, left, top, side, out) -> whether the picture is whole"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_jpeg", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&definition); }
