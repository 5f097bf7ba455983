/* Whether a URL is so plain that resolving leaves it as it is; see urls.py. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include "plain_url.h"

static PyObject *is_plain(PyObject *self, PyObject *given)
{
    (void)self;
    Py_ssize_t size;
    const char *url = PyUnicode_AsUTF8AndSize(given, &size), *mark;
    if (!url) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) /* not of a lone surrogate */
            return NULL;
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    const char *path = after_host(url), *end = path ? after_path(path, &mark) : NULL;
    return PyBool_FromLong(end == url + size);
}

static PyMethodDef methods[] = {
    {"is_plain", is_plain, METH_O, "is_plain(url) -> whether resolving leaves it as it is; in doubt not"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "pipeline._urls", "Plain URLs; see urls.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__urls(void)
{
    fill_kinds();
    return PyModule_Create(&module);
}
