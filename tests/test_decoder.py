"""The decoding child: whatever it does, there is an outcome, and the next image decodes."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.descriptors import PACKED_BYTES
from pipeline.images import decoder
from pipeline.images.decoder import Decoder
from pipeline.images.process import Processed, process
from pipeline.options import ImageOptions
from pipeline.reasons import REASONS

DATA = Path(__file__).resolve().parents[2] / "shared/data"


def photo(width: int = 400, height: int = 300) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hostile() -> Iterator[Decoder]:
    with Decoder(
        ImageOptions(), seconds=2, memory_bytes=1 << 30, function="tests.decoder_hooks:obey"
    ) as child:
        yield child


def test_results_are_those_of_the_function_itself() -> None:
    options = ImageOptions(image_size=100, resize_mode="square", formats=("jpeg",), keep_exif=True)
    with Decoder(options) as child:
        for data in (
            photo(),
            photo(90, 3000),
            b"",
            b"GIF89a",
            photo()[:900],
            photo(300, 200) + bytes(5 << 20),
        ):
            assert child.process(data) == process(data, options)


@pytest.mark.parametrize(
    ("command", "reason", "detail"),
    [
        ("sleep", "decode_timeout", "2 s"),
        ("loop_in_c", "decode_timeout", "2 s"),
        ("crash", "decode_crash", "SIGSEGV"),
        ("leave", "decode_crash", "exit status 3"),
        ("allocate", "decode_memory", "MemoryError"),
        ("killed", "decode_memory", "killed"),
        ("raises", "internal_error", "LookupError: a bug"),
        ("write_file", "internal_error", "File too large"),
        ("lie", "decode_crash", "neither a reason nor an image"),
        ("lie_about_the_reason", "decode_crash", "neither a reason nor an image"),
        ("lie_about_a_type", "decode_crash", "type"),
        ("lie_about_the_descriptor", "decode_crash", "no descriptor"),
        ("surrogate", "decode_crash", "surrogates"),
        ("flood", "decode_crash", "bytes"),
        ("say_more", "decode_crash", "more than an answer"),
    ],
)
def test_hostile_behaviour_has_its_reason_and_the_next_image_decodes(
    hostile: Decoder, command: str, reason: str, detail: str
) -> None:
    outcome = hostile.process(f"{command} ".encode())
    assert outcome.reason == reason
    assert outcome.reason in REASONS
    assert detail in outcome.detail
    assert hostile.process(photo()) == process(photo(), ImageOptions())


def test_output_of_libraries_does_not_get_into_the_answers(
    hostile: Decoder, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hostile.process(b"chatter ").reason == ""
    assert hostile.process(photo()) == process(photo(), ImageOptions())
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_is_poor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Decoder(ImageOptions(), function="tests.decoder_hooks:obey") as child,
    ):
        os.set_inheritable(server.fileno(), True)
        facts = json.loads(child.process(b"facts ").detail)
    assert not [name for name in facts["environment"] if "AWS" in name or "PASS" in name]
    assert facts["sockets"] == 0
    assert facts["descriptors"] <= 6  # three standard ones, the answers', /dev/null and the listing's own
    assert (facts["threads"], facts["core"], facts["session"]) == (1, 0, True)


def test_the_same_child_serves_until_it_fails(hostile: Decoder) -> None:
    def pid() -> int:
        found = json.loads(hostile.process(b"facts ").detail)["pid"]
        assert isinstance(found, int)
        return found

    first = pid()
    hostile.process(photo())
    hostile.process(b"raises ")
    assert pid() == first
    hostile.process(b"crash ")
    assert pid() != first


def test_a_child_killed_between_images_is_replaced(hostile: Decoder) -> None:
    os.kill(json.loads(hostile.process(b"facts ").detail)["pid"], signal.SIGTERM)
    time.sleep(0.2)
    assert hostile.process(photo()).reason == "decode_crash"
    assert hostile.process(photo()).reason == ""


def test_threads_take_turns(hostile: Decoder) -> None:
    sizes = [(300 + 7 * i, 260) for i in range(16)]
    found: dict[tuple[int, int], Processed] = {}

    def work(size: tuple[int, int]) -> None:
        found[size] = hostile.process(photo(*size))

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {size: process(photo(*size), ImageOptions()) for size in sizes}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # where nobody reaps orphans they stay as zombies


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["", "loop_in_c"], ids=["idle", "busy"])
def test_the_child_ends_with_its_parent(command: str) -> None:
    script = textwrap.dedent(
        f"""
        import json
        from pipeline.images.decoder import Decoder
        from pipeline.options import ImageOptions
        child = Decoder(ImageOptions(), seconds=1.5, function="tests.decoder_hooks:obey")
        print(json.loads(child.process(b"facts ").detail)["pid"], flush=True)
        {f'child.process(b"{command} ")' if command else "import time; time.sleep(60)"}
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)  # until a busy child is in C code, before its second and a half are over
        assert alive(pid)
        parent.kill()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent by 10 s")


def test_closing_ends_the_child_and_can_be_repeated() -> None:
    child = Decoder(ImageOptions(), function="tests.decoder_hooks:obey")
    pid = json.loads(child.process(b"facts ").detail)["pid"]
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert child.process(photo()).reason == ""
    child.close()


def test_a_child_that_cannot_start_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        Decoder(ImageOptions(), function="no_such_module:process") as child,
        pytest.raises(RuntimeError, match="does not start: exit status 1"),
    ):
        child.process(photo())
    assert "no_such_module" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory_bytes": 0}])
def test_limits_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Decoder(ImageOptions(), **wrong)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.binary(max_size=20))
def test_answers_are_results_or_value_errors(fields: dict[str, object], jpeg: bytes) -> None:
    with pytest.raises(ValueError):
        decoder._parse(fields, jpeg, PACKED_BYTES)


@given(
    st.dictionaries(st.sampled_from(Processed._fields), st.none() | st.integers() | st.text() | st.booleans())
)
def test_answers_with_other_fields_or_types_are_refused(changes: dict[str, object]) -> None:
    fields = {**process(photo(), ImageOptions())._asdict(), "jpeg": None}
    del fields["jpeg"]
    try:
        result = decoder._parse({**fields, **changes}, b"\xff\xd8\xff", PACKED_BYTES)
    except ValueError:
        return
    assert all(type(value) is type(getattr(Processed(), name)) for name, value in result._asdict().items())
    assert result.reason in {"", *REASONS}


ALLOWED = {
    # Pillow's result under a strict policy for each file, and the reasons that may answer to it.
    "OK": {"", "animated", "too_many_scans"},
    "UnidentifiedImageError": {"not_image", "empty_body", "decode_error", "truncated"},
    "OSError": {"truncated", "decode_error"},
    "ValueError": {"decode_error"},
    "DecompressionBombError": {"too_many_pixels"},
    "DecompressionBombWarning": {"too_many_pixels"},
    "KILLED_SIGKILL": {"too_many_scans", "decode_timeout"},
}

# Their pixels are whole: Pillow minds a large comment, a colour chunk, a comment among the pixels.
SHOWN = {
    "crafted/png_1000_ztxt_1m.png",
    "image-png_tests/cicp_pq.png",
    "image-png_tests/x_consecutive_idat.png",
}


@pytest.mark.skipif(not DATA.exists(), reason="no sample data beside the checkout")
def test_every_hostile_file_has_the_outcome_it_deserves() -> None:
    index = [json.loads(line) for line in (DATA / "hostile/INDEX.jsonl").read_text().splitlines()]
    assert len(index) > 300
    wrong = []
    with Decoder(ImageOptions(min_side=1, max_aspect=1e9)) as child:
        for entry in index:
            outcome = child.process((DATA / "hostile" / entry["file"]).read_bytes())
            allowed = {""} if entry["file"] in SHOWN else ALLOWED[entry["strict"]["out"]]
            if outcome.reason not in allowed:
                wrong.append((entry["file"], entry["strict"]["out"], outcome.reason, outcome.detail))
    assert wrong == []


def test_the_child_loads_no_command_and_no_file_system() -> None:
    """It starts once a process and again after each crash: half of its time was the command's parser."""
    modules = "pipeline.images.child, pipeline.images.process, pipeline.images.pixels"
    code = f"import sys, {modules}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "pipeline.options.images" in loaded.split()
    assert not {"tyro", "rich", "fsspec", "pyarrow", "asyncio"} & set(loaded.split())
