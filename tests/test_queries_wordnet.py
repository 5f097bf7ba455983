"""WordNet's database files: names, markers, faults, and the whole of WordNet 3.0."""

from pathlib import Path

import pytest

from queries import wordnet
from tests.queries_dump import SAMPLE, WORDNET

_LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"
FILES = {
    "noun": "00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is\n"
    "09023321 15 n 02 St._Petersburg 0 Leningrad 1 000 | a city\n",
    "verb": "00001740 29 v 02 breathe 0 take_a_breath 0 000 01 + 02 00 | draw air\n",
    "adj": "00001740 00 a 01 able(p) 0 000 | having means\n"
    "00002098 00 s 02 elect(ip) 0 chosen(a) 1 000 | chosen\n",
    "adv": "00001740 02 r 0b " + " ".join(f"w{i} 0" for i in range(11)) + " 000 | eleven, in hexadecimal\n"
    "00001800 02 r 01 Entity 0 000 | a second synset of that name\n",
}


def write_wordnet(folder: Path, files: dict[str, str] = FILES) -> Path:
    for part, text in files.items():
        (folder / f"data.{part}").write_text(_LICENCE + text)
    return folder


def test_names_are_first_lemmas_in_lower_case(tmp_path: Path) -> None:
    synsets = wordnet.read_lemmas(str(write_wordnet(tmp_path)))
    assert wordnet.names(synsets, "first") == {
        "able": 1, "breathe": 1, "elect": 1, "entity": 2, "st. petersburg": 1, "w0": 1
    }  # fmt: skip
    every = wordnet.names(synsets, "all")
    assert {"leningrad", "take a breath", "chosen", "w10"} <= every.keys()
    assert list(every) == sorted(every)


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    write_wordnet(tmp_path)
    (tmp_path / "data.adj").unlink()
    with pytest.raises(ValueError, match=r"data\.adj does not exist; .*wordnet-base"):
        wordnet.read_lemmas(str(tmp_path))


@pytest.mark.parametrize("line", ["<html>", "00001740 03 n 00 001", "00001740 03 n 05 entity 0"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, line: str) -> None:
    write_wordnet(tmp_path, {**FILES, "noun": f"{FILES['noun']}{line}\n"})
    with pytest.raises(ValueError, match=r"data\.noun, line 4: not a synset"):
        wordnet.read_lemmas(str(tmp_path))


@pytest.mark.skipif(not (WORDNET / "data.noun").exists(), reason="needs Debian's wordnet-base")
def test_all_of_wordnet_3() -> None:
    synsets = wordnet.read_lemmas(str(WORDNET))
    assert len(synsets) == 117_659
    names = wordnet.names(synsets, "first")
    assert len(names) == 86_571
    assert len(wordnet.names(synsets, "all")) == 147_306
    expected = SAMPLE / "wordnet30_synset_names.txt"
    if expected.exists():
        assert set(names) == set(expected.read_text().splitlines())
