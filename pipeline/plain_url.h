/* URLs that resolving leaves as they are, PLAIN_HOST and PLAIN_PATH of urls.py. A text ends in a byte of zero. */
#include <stdint.h>
#include <string.h>

enum { SMALL = 1, LETTER = 2, DIGIT = 4, SIGN = 8 }; /* sets of bytes; SIGN: others of a path */

static uint8_t kinds[256];

static void fill_kinds(void)
{
    for (int c = 1; c < 128; c++) {
        int small = c >= 'a' && c <= 'z', letter = small || (c >= 'A' && c <= 'Z'), digit = c >= '0' && c <= '9';
        int sign = strchr("_~!$&()*+,;=:@.-", c) != NULL;
        kinds[c] = (uint8_t)(small * SMALL | letter * LETTER | digit * DIGIT | sign * SIGN);
    }
}

static int is(char c, int set) { return kinds[(uint8_t)c] & set; }

static int starts(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

/* Where the scheme and host before a path end, PLAIN_HOST of urls.py; NULL where there is no such host. */
static const char *after_host(const char *at)
{
    if (!starts(at, "http"))
        return NULL;
    at += 4 + (at[4] == 's');
    if (!starts(at, "://"))
        return NULL;
    at += 3;
    for (int labels = 0;; labels++, at++) {
        const char *label = at;
        int only_letters = 1;
        for (; is(*at, SMALL | DIGIT) || *at == '-'; at++)
            only_letters &= is(*at, SMALL) != 0;
        if (at == label || *label == '-' || starts(label, "xn--"))
            return NULL;
        if (*at != '.')
            return labels && only_letters && at - label > 1 && *at == '/' ? at : NULL;
    }
}

/* Where a path and its query end, PLAIN_PATH of urls.py; NULL where there is no such path. `mark`: where the query
 * starts, if there is one. */
static const char *after_path(const char *at, const char **mark)
{
    if (*at != '/')
        return NULL;
    while (*at == '/') {
        const char *segment = ++at;
        while (is(*at, LETTER | DIGIT | SIGN))
            at++;
        if (at == segment || *segment == '.')
            return NULL;
    }
    *mark = at;
    if (*at == '?')
        for (at++; is(*at, LETTER | DIGIT | SIGN) || *at == '/' || *at == '?';)
            at++;
    return at;
}
