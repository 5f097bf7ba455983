/* Whether a caption is so plain that no rule of text.py has anything to do with it; most are.
 *
 * One look at each byte, and a few at the words. It answers for certain or not at all: text.py, which has the
 * rules, reads whatever is in doubt, and everything where this module is not built.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 1024, MOST_WORDS = 64, LONGEST_TEMPLATE = 80, FEWEST_OF_PHONE = 7, MOST_BETWEEN = 2 };

enum { OTHER, LETTER, DIGIT, SPACE, DOUBT }; /* kinds of bytes */

static uint8_t kinds[256];

static void fill_kinds(void)
{
    for (int c = 0; c < 256; c++) {
        int letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        /* Controls, and what is not ASCII; what starts markup, addresses of mail and templates. */
        int doubt = c < 32 || c > 126 || strchr("&<@{", c);
        kinds[c] = letter ? LETTER : c >= '0' && c <= '9' ? DIGIT : c == ' ' ? SPACE : doubt ? DOUBT : OTHER;
    }
}

static int starts(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

/* Whether a caption with a digit in it, in small letters, may be a camera's name or its settings. */
static int may_be_camera(const char *text)
{
    static const char *const names[] = {
        "img", "dsc", "cimg", "hpim", "mvi", "pict", "gopr", "dji", "pxl", "sam", "sdc", "kif", "vid", "wp",
        "image", "mg_", "screen", "whatsapp", "photo",
    };
    if (strstr(text, "1/") || strstr(text, "iso"))
        return 1;
    if (*text == '_')
        text++;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (starts(text, names[i]))
            return 1;
    return *text == 'p' && kinds[(uint8_t)text[1]] == DIGIT;
}

/* Whether a caption in small letters may be what pages or classifiers say; -1 with an exception set. */
static int may_be_boilerplate(const char *text, size_t length, PyObject *template_words)
{
    if (starts(text, "image may ") || starts(text, "photo may ") || starts(text, "may be a") ||
        strstr(text, "escription automatically"))
        return 1;
    if (length > LONGEST_TEMPLATE)
        return 0;
    if (starts(text, "thumbnail for") || !strcmp(text + length - 6, "avatar"))
        return 1;
    for (size_t start = 0; start < length; start++) {
        size_t stop = start;
        while (kinds[(uint8_t)text[stop]] == LETTER)
            stop++;
        if (stop == start)
            continue;
        PyObject *word = PyUnicode_FromStringAndSize(text + start, (Py_ssize_t)(stop - start));
        int known = word ? PySet_Contains(template_words, word) : -1;
        Py_XDECREF(word);
        if (known < 1)
            return known;
        start = stop;
    }
    return 1;
}

typedef struct {
    uint32_t start, length;
    uint64_t hash;
} Word;

/* The share of words of two characters or more that stood before, where there are four or more. */
static double repeated(const char *text, const Word *words, size_t count)
{
    size_t all = 0, again = 0;
    for (size_t i = 0; i < count; i++) {
        if (words[i].length < 2)
            continue;
        all++;
        for (size_t j = 0; j < i; j++)
            if (words[j].hash == words[i].hash && words[j].length == words[i].length &&
                !memcmp(text + words[j].start, text + words[i].start, words[i].length)) {
                again++;
                break;
            }
    }
    return all >= 4 ? 1 - (double)(all - again) / (double)all : 0;
}

/* Whether one character, repeated, is more than half of a text: then it stands in the middle. */
static int is_one_run(const char *text, size_t length)
{
    size_t first = length / 2, last = first;
    while (first > 0 && text[first - 1] == text[length / 2])
        first--;
    while (last < length && text[last] == text[length / 2])
        last++;
    return 2 * (last - first) > length;
}

static PyObject *plain(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)self;
    if (count != 3 || !PyAnySet_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "plain(text, template_words, max_repetition)");
    Py_ssize_t size = PyUnicode_GetLength(args[0]);
    double max_repetition = PyFloat_AsDouble(args[2]);
    if (size < 0 || PyErr_Occurred())
        return NULL;
    if (size < 6 || size > LONGEST)
        return PyLong_FromLong(0);
    const char *text = PyUnicode_AsUTF8AndSize(args[0], &size);
    if (!text) { /* a lone surrogate */
        PyErr_Clear();
        return PyLong_FromLong(0);
    }
    size_t length = (size_t)size, digits = 0, number = 0, together = 0, gap = 0;
    char lower[LONGEST + 1];
    Word words[MOST_WORDS];
    Word word = {0, 0, 0};
    if (length > LONGEST || text[length - 1] == ' ')
        return PyLong_FromLong(0);
    for (size_t i = 0; i < length; i++) {
        uint8_t c = (uint8_t)text[i], kind = kinds[c];
        if (kind == DOUBT && (c != '&' || text[i + 1] != ' ')) /* "A & B" refers to no character */
            return PyLong_FromLong(0);
        if (kind == SPACE) {
            gap++;
            word.length = (uint32_t)i - word.start;
            if (!word.length || number + 1 == MOST_WORDS)
                return PyLong_FromLong(0);
            words[number++] = word;
            word = (Word){(uint32_t)i + 1, 0, 0};
            lower[i] = ' ';
            continue;
        }
        if (kind == DIGIT) { /* a number of a telephone has at most so much between its digits */
            together = gap > MOST_BETWEEN ? 1 : together + 1;
            gap = 0;
            digits++;
            if (together == FEWEST_OF_PHONE)
                return PyLong_FromLong(0);
        } else {
            gap += strchr("().-/", c) ? 1 : MOST_BETWEEN + 1;
        }
        lower[i] = (char)(kind == LETTER ? c | 32 : c);
        word.hash = (word.hash ^ (uint8_t)lower[i]) * 0x9E3779B97F4A7C15;
    }
    lower[length] = 0;
    word.length = (uint32_t)length - word.start;
    words[number++] = word;
    if (number == 1 || is_one_run(text, length) ||
        (number >= 4 && repeated(lower, words, number) > max_repetition) || (digits && may_be_camera(lower)))
        return PyLong_FromLong(0);
    int doubt = may_be_boilerplate(lower, length, args[1]);
    return doubt < 0 ? NULL : PyLong_FromLong(doubt ? 0 : (long)number);
}

static PyMethodDef methods[] = {
    {"plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL,
     "plain(text, template_words, max_repetition) -> how many words a plain caption has, else 0"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "pipeline.captions._text", "Plain captions; see text.py.", 0, methods, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC PyInit__text(void)
{
    fill_kinds();
    return PyModule_Create(&module);
}
