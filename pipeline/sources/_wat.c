/* The image links of a WAT record, and the words in it that its readers look for; see wat_links.py.
 *
 * A record is a web page's, through Common Crawl's writer: any bytes. They end in a byte of zero, as every bytes
 * object does, at which each loop and comparison stops.
 */
#define _GNU_SOURCE /* memmem */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include "../plain_url.h"

enum { LONGEST_URL = 4096, LONGEST_TEXT = 16384, MOST_WORDS = 32, SHORTEST_WORD = 2 };

static const char VALUE[] = "\"IMG@/src\""; /* of "path", the first key of a link */
enum { VALUE_SIZE = sizeof VALUE - 1, BEFORE_SIGN = 4 };

static uint8_t in_text[256]; /* whether a byte may stand in a string of JSON by itself */

static void fill_tables(void)
{
    fill_kinds();
    for (int c = 32; c < 256; c++)
        in_text[c] = c != '"' && c != '\\';
}

/* Whether a character is neither white space nor of several bytes. */
static int is_visible(char c) { return (uint8_t)c > 32 && (uint8_t)c < 128; }

/* Whether a path that ends there names an SVG; it has a character before its last segment's end, and more before it. */
static int is_svg(const char *end)
{
    end -= end[-1] == 'z' || end[-1] == 'Z';
    return end[-4] == '.' && (end[-3] | 32) == 's' && (end[-2] | 32) == 'v' && (end[-1] | 32) == 'g';
}

typedef struct {
    const char *start;
    Py_ssize_t size;
    int is_there;
    char unescaped[LONGEST_TEXT + 8];
} Text;

/* The number of four hexadecimal digits; -1 where there are none. */
static int hexadecimal(const char *at)
{
    int code = 0;
    for (int i = 0; i < 4; i++) {
        int small = at[i] | 32, digit = is(at[i], DIGIT) ? at[i] - '0' : small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        code = code << 4 | digit;
    }
    return code;
}

/* Write the character that an escape of JSON stands for, and return how many bytes that takes; `at` goes past it.
 * 0 where it is none, or half a character of UTF-16. */
static int unescaped(const char **at, char *into)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    char letter = (*at)[1];
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (known) {
        *at += 2;
        *into = meant[known - letters];
        return 1;
    }
    int code = letter == 'u' ? hexadecimal(*at + 2) : -1;
    if (code < 0 || (code >= 0xD800 && code < 0xE000))
        return 0;
    *at += 6;
    int size = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
    into[0] = (char)(size == 1 ? code : size == 2 ? 0xC0 | code >> 6 : 0xE0 | code >> 12);
    if (size == 3)
        into[1] = (char)(0x80 | (code >> 6 & 0x3F));
    if (size > 1)
        into[size - 1] = (char)(0x80 | (code & 0x3F));
    return size;
}

/* Read ,"KEY":"TEXT" where it stands, if it is not too long; else `at` stays where it is. */
static void read_text(const char **at, const char *before, Py_ssize_t longest, Text *text)
{
    if (!starts(*at, before))
        return;
    const char *start = *at + strlen(before), *end = start;
    while (in_text[(uint8_t)*end])
        end++;
    text->start = start;
    text->size = end - start;
    if (*end == '\\' && text->size <= longest) {
        memcpy(text->unescaped, start, (size_t)text->size);
        text->start = text->unescaped;
        while (*end != '"' && end - start <= longest) {
            int size = 1;
            if (*end == '\\')
                size = unescaped(&end, text->unescaped + text->size);
            else if (in_text[(uint8_t)*end])
                text->unescaped[text->size] = *end++;
            else
                return;
            if (!size)
                return;
            text->size += size;
        }
    }
    if (*end != '"' || end - start > longest)
        return;
    text->is_there = 1;
    *at = end + 1;
}

/* The text without white space around it, as str.strip has it. */
static PyObject *stripped(const Text *text)
{
    PyObject *found = PyUnicode_DecodeUTF8(text->start, text->size, NULL);
    if (!found || (is_visible(text->start[0]) && is_visible(text->start[text->size - 1])))
        return found;
    PyObject *less = PyObject_CallMethod(found, "strip", NULL);
    Py_DECREF(found);
    return less;
}

typedef struct {
    const char *site;
    Py_ssize_t site_size, longest_url, longest_text;
    PyObject *kinds[2]; /* "alt", "title" */
} Limits;

/* Return (URL, texts) of a plain link, whose value of "path" ends before `at`; None where it is not plain. */
static PyObject *plain_link(const char *at, const Limits *limits)
{
    if (!starts(at, ",\"url\":\""))
        Py_RETURN_NONE;
    const char *url = at + 8, *host = after_host(url), *mark;
    const char *end = after_path(host ? host : url, &mark);
    Py_ssize_t before = host ? 0 : limits->site_size;
    if (!end || *end != '"' || is_svg(mark) || before + (end - url) > limits->longest_url)
        Py_RETURN_NONE;
    at = end + 1;
    Text given[2];
    given[0].is_there = given[1].is_there = 0;
    read_text(&at, ",\"alt\":\"", limits->longest_text, &given[0]);
    read_text(&at, ",\"title\":\"", limits->longest_text, &given[1]);
    if (*at != '}')
        Py_RETURN_NONE;

    PyObject *texts[2] = {NULL, NULL}, *all = NULL;
    Py_ssize_t count = 0;
    for (int i = 0; i < 2; i++) {
        PyObject *text = given[i].is_there && given[i].size ? stripped(&given[i]) : NULL;
        if (PyErr_Occurred())
            goto done;
        if (text && PyUnicode_GetLength(text))
            texts[count++] = PyTuple_Pack(2, limits->kinds[i], text);
        Py_XDECREF(text);
        if (PyErr_Occurred())
            goto done;
    }
    all = count == 2 ? PyTuple_Pack(2, texts[0], texts[1]) : count ? PyTuple_Pack(1, texts[0]) : PyTuple_New(0);
done:
    Py_XDECREF(texts[0]);
    Py_XDECREF(texts[1]);
    if (!all)
        return NULL;
    char whole[LONGEST_URL];
    memcpy(whole, limits->site, (size_t)before);
    memcpy(whole + before, url, (size_t)(end - url));
    return Py_BuildValue("(s#N)", whole, before + (end - url), all);
}

/* Whether the value of "path" there is of an element of an array; a header that looks alike follows a colon. */
static int is_element(const char *value, const char *data)
{
    return value - data > 8 && (value[-9] == '[' || value[-9] == ',') && !memcmp(value - 8, "{\"path\":", 8);
}

static PyObject *links(PyObject *self, PyObject *args)
{
    (void)self;
    const char *data;
    Py_ssize_t size;
    Limits limits;
    PyObject *given, *found = PyList_New(0);
    if (!found || !PyArg_ParseTuple(args, "Ss#nnUU", &given, &limits.site, &limits.site_size, &limits.longest_url,
                                    &limits.longest_text, &limits.kinds[0], &limits.kinds[1]))
        goto failed;
    if (limits.longest_url > LONGEST_URL || limits.longest_text > LONGEST_TEXT) {
        PyErr_SetString(PyExc_ValueError, "at most 4096 bytes of a URL and 16384 of a text");
        goto failed;
    }
    if (PyBytes_AsStringAndSize(given, (char **)&data, &size) < 0)
        goto failed;
    const char *last = data, *end = data + size, *sign = data;
    for (; (sign = memchr(sign, '@', (size_t)(end - sign))); sign++) {
        if (sign - last < BEFORE_SIGN || memcmp(sign - BEFORE_SIGN, VALUE, BEFORE_SIGN) ||
            !starts(sign, VALUE + BEFORE_SIGN))
            continue;
        const char *value = sign - BEFORE_SIGN;
        last = value + VALUE_SIZE;
        PyObject *link = limits.site_size && is_element(value, data) ? plain_link(last, &limits) : Py_NewRef(Py_None);
        if (link && Py_IsNone(link)) {
            Py_DECREF(link);
            link = PyLong_FromSsize_t(last - data);
        }
        int failed = !link || PyList_Append(found, link);
        Py_XDECREF(link);
        if (failed)
            goto failed;
    }
    return found;
failed:
    Py_XDECREF(found);
    return NULL;
}

static uint8_t small(char c) { return (uint8_t)(c >= 'A' && c <= 'Z' ? c | 32 : c); }

static unsigned pair(const char *text) { return (unsigned)(text[0] & 31) << 5 | (text[1] & 31); }

/* Whether a word in small letters stands at `text`, in any case; no word has a byte of zero, at which a text ends. */
static int stands(const char *text, const char *word)
{
    while (*word && small(*text) == (uint8_t)*word)
        text++, word++;
    return !*word;
}

static PyObject *words(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *given, *wanted, *found = NULL;
    const char *data, *known[MOST_WORDS];
    Py_ssize_t size, stop, sizes[MOST_WORDS];
    uint32_t starting[1 << 10], all = 0; /* words by their first two letters */
    if (!PyArg_ParseTuple(args, "SnO!", &given, &stop, &PyTuple_Type, &wanted) ||
        PyBytes_AsStringAndSize(given, (char **)&data, &size) < 0)
        return NULL;
    Py_ssize_t count = PyTuple_Size(wanted);
    memset(starting, 0, sizeof starting);
    for (Py_ssize_t i = 0; i < count; i++) {
        /* Without a size it refuses a byte of zero. */
        if (i == MOST_WORDS || PyBytes_AsStringAndSize(PyTuple_GetItem(wanted, i), (char **)&known[i], NULL) < 0 ||
            (sizes[i] = (Py_ssize_t)strlen(known[i])) < SHORTEST_WORD)
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "at most 32 words of two bytes or more");
        starting[pair(known[i])] |= (uint32_t)1 << i;
    }
    if (stop < 0 || stop > size)
        return PyErr_Format(PyExc_ValueError, "there is no byte %zd", stop);
    for (Py_ssize_t at = 0; at + SHORTEST_WORD <= stop; at++) {
        uint32_t possible = starting[pair(data + at)] & ~all;
        for (Py_ssize_t i = 0; i < count && possible >> i; i++)
            if ((possible >> i & 1) && sizes[i] <= stop - at && stands(data + at, known[i]))
                all |= (uint32_t)1 << i;
    }
    found = PyList_New(0);
    for (Py_ssize_t i = 0; found && i < count; i++)
        if ((all >> i & 1) && PyList_Append(found, PyTuple_GetItem(wanted, i)))
            Py_CLEAR(found);
    return found;
}

static PyObject *has(PyObject *self, PyObject *args)
{
    (void)self;
    const char *data, *word;
    Py_ssize_t size, word_size;
    if (!PyArg_ParseTuple(args, "y#y#", &data, &size, &word, &word_size))
        return NULL;
    return PyBool_FromLong(memmem(data, (size_t)size, word, (size_t)word_size) != NULL);
}

static PyMethodDef methods[] = {
    {"links", links, METH_VARARGS,
     "links(data, site, longest_url, longest_text, alt, title) -> (URL, texts) of each plain image link, and where\n"
     "the value of \"path\" ends in others"},
    {"words", words, METH_VARARGS, "words(data, stop, words) -> the words in small letters in data[:stop], in any case"},
    {"has", has, METH_VARARGS, "has(data, word) -> word in data"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "pipeline.sources._wat", "Image links of WAT records; see wat_links.py.", 0, methods, NULL,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__wat(void)
{
    fill_tables();
    return PyModule_Create(&module);
}
