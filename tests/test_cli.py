"""The command line: a wrong option is named beside the right option, and nothing is written."""

import subprocess
import sys
from pathlib import Path

import pytest

import beam_job
from pipeline import config, verbosity
from pipeline.cli import main
from pipeline.crawl_checks import too_small_for
from pipeline.demo.server import Server
from pipeline.options import CrawlConfig, ImageOptions
from tests.crawling import arguments
from train.evaluation.options import EvalConfig


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def usage(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    """Imports that take seconds must not stand between a user and the help."""
    script = (
        "import sys, beam_job\n"
        "try: beam_job.main(['--help'])\n"
        "finally: print(sorted({'apache_beam', 'numpy', 'pyarrow', 'torch', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in beam_job.COMMANDS:
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_of_no_command_loads_what_only_its_work_needs() -> None:
    code = (
        "import sys, beam_job\n"
        "from pipeline.reference import CONFIGS\n"
        "for name in CONFIGS:\n"
        "    try: beam_job.main([*name.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'apache_beam', 'aiohttp', 'cv2', 'fsspec', 'google.cloud.storage', 'pandas', 'torch'}\n"
        "heavy |= {'numpy', 'publicsuffixlist', 'pyarrow', 'rich'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("loaded []"), done.stdout[-200:]


@pytest.mark.parametrize(
    ("argv", "code"), [(["--version"], 0), (["crwal"], 2), (["status", "--run", "/nowhere"], 2), ([], 0)]
)
def test_a_process_ends_with_its_code_whatever_libraries_do_at_the_end(argv: list[str], code: int) -> None:
    """Arrow's threads abort a process at times, from a destructor that runs after Python has ended."""
    script = (
        "import atexit, ctypes, beam_job\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)\n"
        "atexit.register(print, 'tidied')\n"
        "beam_job.console()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "tidied")
    assert code == 0 or "error" in done.stderr


def test_a_process_does_not_wait_for_workers_that_wait_for_it() -> None:
    script = (
        "import multiprocessing, beam_job\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor(1, multiprocessing.get_context('fork'))\n"
        "beam_job.main = lambda: pool.submit(abs, -3).result()\n"
        "beam_job.console()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 3


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert beam_job.main(["crwal"]) == 2
    assert "did you mean crawl?" in capsys.readouterr().err
    assert beam_job.main(["halp"]) == 2
    assert "did you mean help?" in capsys.readouterr().err


def test_an_option_in_the_place_of_a_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, says in (
        ("--url_list", "img2dataset; use --source here: openwit crawl --source"),
        ("--queries=q.txt", "comes after a command: openwit crawl --queries=q.txt"),
        ("--nonsense", "unknown option --nonsense"),
    ):
        assert beam_job.main([wrong, "x"]) == 2
        assert says in capsys.readouterr().err


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert beam_job.main(["completion", "tcsh"]) == 2
    assert "bash, zsh or fish" in capsys.readouterr().err
    found = {}
    for shell in ("bash", "zsh", "fish"):
        assert beam_job.main(["completion", shell]) == 0
        (tmp_path / shell).write_text(capsys.readouterr().out)
        assert "--per-query" in (tmp_path / shell).read_text()
    for words in ("openwit cra", "openwit crawl --per-", "openwit detector tr"):
        script = (
            f"source {tmp_path}/bash; COMP_WORDS=({words}); COMP_CWORD=$(({len(words.split())} - 1))\n"
            "_tyro_openwit; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        found[words] = done.stdout.split()
    assert [*found.values()] == [["crawl"], ["--per-query"], ["train"]]


def test_quiet_leaves_errors_and_the_result(
    capfd: pytest.CaptureFixture[str], web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbosity, "_chosen", [""])  # and so it is put back
    argv = ["crawl", *arguments(web.web, tmp_path / "run"), "--stage", "candidates"]
    said = {}
    for flag in ("--quiet", "--verbose"):
        assert beam_job.main([*argv, flag]) == 0
        said[flag] = capfd.readouterr()
    assert said["--quiet"].err == said["--quiet"].out == "" and "Done: candidates" in said["--verbose"].err
    with pytest.raises(SystemExit):
        beam_job.main(["status", "--run", str(tmp_path), "--quiet"])
    assert "error" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        (["--per-quary", "3"], "--per-query"),
        (["--runer", "DataflowRunner"], "--runner"),
        (["--temp_locatio", "gs://bucket"], "--temp_location"),
        (["--tmieout=3"], "--timeout"),
        (["--querys", "other.txt"], "--queries"),
    ],
)
def test_a_misspelt_option_names_the_nearest(capsys, tmp_path: Path, wrong, nearest) -> None:
    base = ["--queries", "q.txt", "--source", "x", "--out", str(tmp_path / "run")]
    assert nearest in usage(capsys, [*base, *wrong])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            ["--image-size", "large"],
            "--image-size takes a whole number, not 'large'; `openwit crawl --help-all`",
        ),
        (["--host-delay=x"], "--host-delay takes a number, not 'x'"),
        (["--resize-mode", "fit"], "--resize-mode takes one of shorter, longer, square, keep, not 'fit'"),
        (["--image-size"], "--image-size needs a whole number"),
        (["--formats"], "--formats must be some of jpeg, png"),
        (["--qqqq", "3"], "unknown option --qqqq; --help-all lists them all"),
    ],
)
def test_a_wrong_value_is_one_line(capsys, tmp_path: Path, wrong: list[str], says: str) -> None:
    said = usage(capsys, ["--queries", "q.txt", "--source", "x", "--out", str(tmp_path / "run"), *wrong])
    assert said.startswith(f"openwit crawl: error: {says}") and said.count("\n") == 1


@pytest.mark.parametrize("command", [["-m", "beam_job", "train"], ["-m", "train"]])
def test_quiet_is_known_however_training_begins(command: list[str]) -> None:
    argv = [
        sys.executable,
        *command,
        "--quiet",
        "--shards",
        "/nowhere",
        "--out",
        "/nowhere",
        "--max-steps",
        "x",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("openwit train: error: --max-steps takes")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--per-query", "0"], "--per-query must be at least 1"),
        (["--headroom", "0.5"], "headroom must be at least 1"),
        (["--sample", "2"], "share above 0"),
        (["--keep-if", "score_x > 1"], "--scorer"),
        (["--source", "/nowhere/*.parquet"], "matches nothing"),
        (["--queries", "/nowhere/list.txt"], "/nowhere/list.txt"),
        (["--scorer", "nowhere:Scorer"], "cannot be imported"),
        (["--scorer", "pipeline.images.scoring:Sharpness", "--keep-if", "score_nsfw < 1"], "score_sharpness"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    capsys, web: Server, tmp_path: Path, change, says
) -> None:
    out = tmp_path / "run"
    assert says in usage(capsys, [*arguments(web.web, out), *change])
    assert not out.exists()


def test_a_contact_is_required_for_the_public_web(capsys, tmp_path: Path) -> None:
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://example.com/a.jpg,a red boat\n")
    (tmp_path / "queries.txt").write_text("boat\n")
    argv = [
        "--queries",
        str(tmp_path / "queries.txt"),
        "--source",
        str(tmp_path / "urls.csv"),
        "--lang",
        "any",
    ]
    assert "--contact" in usage(capsys, [*argv, "--out", str(tmp_path / "run")])


def test_a_folder_with_other_things_is_refused(capsys, web: Server, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    assert "not empty" in usage(capsys, arguments(web.web, tmp_path))


def test_check_writes_nothing(capsys, web: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main([*arguments(web.web, out), "--check"]) == 0
    assert not out.exists()
    shown = capsys.readouterr().out
    assert "per_query" not in shown and "samples_per_shard = 100" in shown, "what differs from the defaults"
    assert main([*arguments(web.web, out), "--check-all"]) == 0
    assert not out.exists()
    shown = capsys.readouterr().out
    assert "per_query = 20000" in shown and "samples_per_shard = 100" in shown


def test_toml_and_flags_are_one_parser(tmp_path: Path) -> None:
    file = tmp_path / "crawl.toml"
    file.write_text(
        'queries = "q.txt"\nout = "run"\nsource = ["a.warc.gz", "b.warc.gz"]\nseed = 7\n'
        '[crawl]\nper-query = 50\nkeep_staging = true\n[beam]\nregion = "europe-west4"\n'
    )
    found, beam = config.parse(
        CrawlConfig, ["--config", str(file), "--per-query", "60"], prog="x crawl", beam=True
    )
    assert (found.per_query, found.seed, found.keep_staging) == (60, 7, True)
    assert found.source == ("a.warc.gz", "b.warc.gz")
    assert beam == ("--region=europe-west4",)
    replaced, _ = config.parse(CrawlConfig, ["--source", "c.warc.gz", f"--config={file}"], prog="x crawl")
    assert replaced.source == ("c.warc.gz",), "a list given by flags replaces the file's"


def test_the_effective_configuration_reads_back(tmp_path: Path) -> None:
    flags = [
        "--queries",
        "q.txt",
        "--source",
        "a b",
        "--source",
        'c"d',
        "--out",
        "run",
        "--allow-network",
        "127.0.0.0/8",
    ]
    flags += ["--no-boilerplate", "--max-aspect", "3", "--opt-out"]  # none of them is honoured
    first, _ = config.parse(CrawlConfig, flags, prog="x crawl")
    assert first.fetch.opt_out == ()
    (tmp_path / "c.toml").write_text(config.to_toml(config.effective(first)))
    again, _ = config.parse(CrawlConfig, ["--config", str(tmp_path / "c.toml")], prog="x crawl")
    assert again == first


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("per_quer = 3", "per_query"),
        ("[crawl]\nimage-siez = 3", "image_size"),
        ("per_query = ", "crawl.toml"),
        ('per_query = "many"', "--per-query"),
    ],
)
def test_a_wrong_toml_key_or_value_is_named(capsys, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "crawl.toml").write_text('queries = "q.txt"\nsource = ["a"]\nout = "run"\n' + text)
    with pytest.raises(SystemExit) as stop:
        config.parse(CrawlConfig, ["--config", str(tmp_path / "crawl.toml")], prog="openwit crawl")
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_misspelt_required_option_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --queries?" in usage(capsys, ["--querys", "q.txt", "--source", "x", "--out", "run"])


def test_images_too_small_for_the_model_are_warned_of() -> None:
    small, large = ImageOptions(image_size=256), ImageOptions(image_size=336)
    assert "336 pixels" in too_small_for("ViT-L-14-336", small)
    assert (
        too_small_for("ViT-L-14-336", large)
        == too_small_for("ViT-B-32", small)
        == too_small_for("", small)
        == ""
    )
    assert too_small_for("ViT-B-32", ImageOptions(resize_mode="longer"))
    with pytest.raises(ValueError, match="did you mean ViT-B-32"):
        too_small_for("ViT-B32", small)


@pytest.mark.parametrize(
    ("flags", "shots"),
    [
        (["--shots", "1", "4"], (1, 4)),
        (["--shots", "1", "--shots", "4"], (1, 4)),
        (["--shots=1", "--seed", "3", "--shots", "4", "8"], (1, 4, 8)),
        ([], (1, 2, 4, 8, 16)),
    ],
)
def test_a_list_given_again_goes_on(flags: list[str], shots: tuple[int, ...], tmp_path: Path) -> None:
    needed = ["--task", "few-shot", "--checkpoint", "c", "--data", "s=d", "--train", "s=t", "--out", "o"]
    assert config.parse(EvalConfig, [*needed, *flags], prog="openwit eval")[0].shots == shots
    assert config.parse(EvalConfig, [*flags, *needed], prog="openwit eval")[0].shots == shots
    toml = tmp_path / "c.toml"
    toml.write_text("shots = [2, 3]")
    found = config.parse(EvalConfig, [*needed, "--config", str(toml), *flags], prog="openwit eval")[0]
    assert found.shots == (shots if flags else (2, 3)), "flags win over the file"
