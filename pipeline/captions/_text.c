/* Whether a caption is so plain that no rule of text.py has anything to do with it; most are. Of others it says at
 * least whether they are clean and without contact data.
 *
 * One look at each byte, and a few at the words. It answers for certain or not at all: text.py, which has the
 * rules, reads whatever is in doubt, and everything where this module is not built.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { LONGEST = 1024, MOST_WORDS = 64, LONGEST_TEMPLATE = 80 };
enum { FEWEST_OF_PHONE = 7, MOST_BETWEEN = 2, DIGITS_OF_DNI = 8, MOST_OF_NUMBER = 16,
       SHORTEST_IBAN = 15 }; /* see contacts.py */

enum { OTHER, LETTER, DIGIT, SPACE, DOUBT }; /* kinds of characters */
#define FOREIGN '\x80' /* stands for each byte of a letter that is not ASCII, so that they are all alike */

static uint8_t kinds[256], between[256]; /* the second: whether it may stand between a number's digits */

static void fill_kinds(void)
{
    for (int c = 0; c < 256; c++) {
        int letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        /* Controls, and what is not ASCII; what starts markup, addresses of mail and templates. */
        int doubt = c < 32 || c > 126 || strchr("&<@{", c);
        kinds[c] = letter ? LETTER : c >= '0' && c <= '9' ? DIGIT : c == ' ' ? SPACE : doubt ? DOUBT : OTHER;
        between[c] = c && strchr("().-/", c);
    }
}

/* The kind of a character of two or three bytes: Latin letters that fold to one letter, some signs; else DOUBT.
 * The text ends in a byte of zero. */
static int foreign_kind(const uint8_t *text, size_t *size)
{
    uint32_t code = (uint32_t)(text[0] & 0x1F) << 6 | (text[1] & 0x3F);
    *size = 2;
    if (text[0] >= 0xC3 && text[0] <= 0xC5) /* ss, two that fold to two characters, long s, two signs */
        return code == 0xDF || code == 0x130 || code == 0x149 || code == 0x17F ? DOUBT
               : code == 0xD7 || code == 0xF7                                  ? OTHER
                                                                               : LETTER;
    if (text[0] == 0xD0 || text[0] == 0xD1) /* Cyrillic, without the signs after it */
        return code <= 0x45F ? LETTER : DOUBT;
    if (text[0] == 0xC2)
        return strchr("\xA3\xA9\xAB\xAE\xB0\xB7\xBB", text[1]) ? OTHER : DOUBT; /* pound, (c), quotes, ... */
    *size = 3;
    if (text[0] == 0xE2 && text[1] == 0x80) /* dashes, quotes, bullet, ellipsis */
        return text[2] >= 0x90 && text[2] <= 0xA6 ? OTHER : DOUBT;
    return text[0] == 0xE2 && text[1] == 0x84 && text[2] == 0xA2 ? OTHER : DOUBT; /* trade mark */
}

static int is_capital(uint8_t c) { return c >= 'A' && c <= 'Z'; }

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
        if (*names[i] == *text && starts(text, names[i]))
            return 1;
    return *text == 'p' && kinds[(uint8_t)text[1]] == DIGIT;
}

/* Whether a caption in small letters may be what pages or classifiers say; -1 with an exception set. */
static int may_be_boilerplate(const char *text, size_t length, PyObject *template_words)
{
    if (starts(text, "image may ") || starts(text, "photo may ") || starts(text, "may be a") ||
        strstr(text, "escription automatically"))
        return 1;
    if (starts(text, "thumbnail for") || (length >= 6 && !strcmp(text + length - 6, "avatar")))
        return 1;
    if (length > LONGEST_TEMPLATE)
        return 0;
    for (size_t start = 0; start < length; start++) {
        size_t stop = start;
        while (kinds[(uint8_t)text[stop]] == LETTER || text[stop] == FOREIGN)
            stop++;
        if (stop == start)
            continue;
        if (memchr(text + start, FOREIGN, stop - start))
            return 0;
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
    uint32_t start, length, characters;
    uint64_t hash;
} Word;

/* The share of words of two characters or more that stood before, where there are four or more. */
static double repeated(const char *text, const Word *words, size_t count)
{
    size_t all = 0, again = 0;
    for (size_t i = 0; i < count; i++) {
        if (words[i].characters < 2)
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

/* Whether one character, repeated, may be more than half of a text of so many characters. */
static int may_be_one_run(const char *text, size_t length, size_t characters)
{
    size_t run = 0;
    for (size_t i = 0; i < length; i++) {
        run = i && text[i] == text[i - 1] ? run + 1 : 1;
        if (2 * run > characters)
            return characters >= 6;
    }
    return 0;
}

/* A number: digits with no more between them than a telephone number has. */
typedef struct {
    size_t start, digits;
    int parted, bracketed; /* whether anything, or a bracket, stands between the digits */
} Number;

/* Whether a word before a number, which ends where the text given does, may be "tel", "call us" or their like. */
static int may_call(const char *text, size_t length)
{
    static const char *const words[] = {
        "tel", "telephone", "fax", "call", "us", "whatsapp", "hotline", "phone", "mobile", "cell", "ph", "mob",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = strlen(words[i]);
        if (size <= length && !memcmp(text + length - size, words[i], size))
            return 1;
    }
    return 0;
}

/* Whether a number may be, or begin, contact data: not where it is one run of digits by itself, nor where it is too
 * short for what is parted, such as "2009-2013". */
static int may_be_contact(const Number *number, const char *lower, char before)
{
    if (number->digits < FEWEST_OF_PHONE)
        return 0;
    if (number->parted ? number->bracketed || number->digits > DIGITS_OF_DNI
                       : number->digits == DIGITS_OF_DNI || number->digits > MOST_OF_NUMBER)
        return 1;
    if (before != ' ')
        return before && !strchr("#(/", before);
    return may_call(lower, number->start - 1) || strchr(":. ", lower[number->start - 2]);
}

/* Whether an IBAN may be in a text with so many digits; letters and spaces may part them. */
static int may_have_iban(const uint8_t *text, size_t length, size_t digits)
{
    for (size_t i = 0; digits >= FEWEST_OF_PHONE && i + SHORTEST_IBAN <= length; i++) {
        size_t size = 0, stop = i;
        if (!is_capital(text[i]) || !is_capital(text[i + 1]) || kinds[text[i + 2]] != DIGIT)
            continue;
        for (; is_capital(text[stop]) || kinds[text[stop]] == DIGIT || text[stop] == ' '; stop++)
            size += text[stop] != ' ';
        if (size >= SHORTEST_IBAN)
            return 1;
    }
    return 0;
}

/* What is known of a text: in small letters, and its words. */
typedef struct {
    char lower[LONGEST + 1];
    size_t length, count, digits, letters;
    Word words[MOST_WORDS];
} Caption;

/* Read a text of at most LONGEST bytes; 0 where a character or its place is in doubt. */
static int read_text(Caption *caption, const uint8_t *text, size_t length)
{
    size_t gap = 0, size;
    Word word = {0, 0, 0, 0};
    Number number = {0, 0, 0, 0};
    int bracket = 0;
    for (size_t i = 0; i < length; i += size) {
        uint8_t c = text[i], kind = kinds[c];
        size = 1;
        if (c >= 128)
            kind = (uint8_t)foreign_kind(text + i, &size);
        if (kind == DOUBT && (c != '&' || text[i + 1] != ' ')) /* "A & B" refers to no character */
            return 0;
        if (kind == SPACE) {
            word.length = (uint32_t)i - word.start;
            if (!word.length || caption->count + 1 == MOST_WORDS)
                return 0;
            caption->words[caption->count++] = word;
            word = (Word){(uint32_t)i + 1, 0, 0, 0};
            caption->lower[i] = ' ';
            gap++;
            continue;
        }
        word.characters++;
        if (kind == DIGIT) {
            if (gap > MOST_BETWEEN || !number.digits) {
                if (may_be_contact(&number, caption->lower, number.start ? (char)text[number.start - 1] : 0))
                    return 0;
                number = (Number){i, 0, 0, 0};
            } else if (gap) {
                number.parted = 1;
                number.bracketed |= bracket;
            }
            number.digits++;
            caption->digits++;
            gap = 0;
            bracket = 0;
        } else {
            gap += between[c] ? 1 : MOST_BETWEEN + 1;
            bracket |= c == '(' || c == ')';
        }
        caption->letters += kind == LETTER ? size : 0;
        for (size_t j = i; j < i + size; j++) {
            uint8_t small = c >= 128 ? (uint8_t)(kind == LETTER ? FOREIGN : 1) : kind == LETTER ? c | 32 : c;
            caption->lower[j] = (char)small;
            word.hash = (word.hash ^ small) * 0x9E3779B97F4A7C15;
        }
    }
    word.length = (uint32_t)length - word.start;
    caption->words[caption->count++] = word;
    caption->length = length;
    caption->lower[length] = 0;
    return word.length > 0 && !may_have_iban(text, length, caption->digits) &&
           !may_be_contact(&number, caption->lower, number.start ? (char)text[number.start - 1] : 0);
}

static PyObject *plain(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)self;
    if (count != 3 || !PyAnySet_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "plain(text, template_words, max_repetition)");
    Py_ssize_t characters = PyUnicode_GetLength(args[0]), size;
    double max_repetition = PyFloat_AsDouble(args[2]);
    if (characters < 0 || PyErr_Occurred())
        return NULL;
    if (characters < 2 || characters > LONGEST)
        return PyLong_FromLong(0);
    const char *text = PyUnicode_AsUTF8AndSize(args[0], &size);
    if (!text) /* a lone surrogate */
        PyErr_Clear();
    Caption caption;
    caption.count = caption.digits = caption.letters = 0;
    if (!text || size > LONGEST || !read_text(&caption, (const uint8_t *)text, (size_t)size))
        return PyLong_FromLong(0);
    /* One word is a file, an address or a code only where it has more than letters. */
    long words = (long)caption.count;
    if ((caption.count == 1 && caption.letters < caption.length) ||
        may_be_one_run(caption.lower, caption.length, (size_t)characters) ||
        (caption.count >= 4 && repeated(caption.lower, caption.words, caption.count) > max_repetition) ||
        (caption.digits && may_be_camera(caption.lower)))
        return PyLong_FromLong(-words);
    int doubt = may_be_boilerplate(caption.lower, caption.length, args[1]);
    return doubt < 0 ? NULL : PyLong_FromLong(doubt ? -words : words);
}

static PyMethodDef methods[] = {
    {"plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL,
     "plain(text, template_words, max_repetition) -> how many words a plain caption has; as a negative number where\n"
     "only `check` may have to do with it, else 0"},
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
