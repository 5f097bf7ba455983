"""Files of this machine: copies of shards, folders that are ours alone, and the modes the umask leaves."""

import gzip
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import train.cache
from pipeline import cli_runtime, private, storage
from pipeline.lock import lock
from tests import train_shards
from train.cache import Cache


def packed(path: Path, places: range) -> Path:
    """Write a compressed shard."""
    plain = train_shards.write(path.with_suffix(".plain"), places)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def test_a_shard_that_was_replaced_is_fetched_again(tmp_path: Path) -> None:
    shard, cache = packed(tmp_path / "a.tar.gz", range(2)), Cache(tmp_path / "cache")
    first = cache.local(str(shard))
    assert cache.local(str(shard)) == first
    before = first.read_bytes()
    packed(shard, range(5, 9))
    assert cache.local(str(shard)).read_bytes() == before, "a run stays with what it has begun to read"
    assert Cache(cache.folder).local(str(shard)).read_bytes() != before
    shard.write_bytes(b"")
    assert Cache(cache.folder).local(str(shard)).read_bytes() == b""


def test_a_bomb_is_stopped_and_nothing_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, folder = tmp_path / "a.tar.gz", tmp_path / "cache"
    bomb.write_bytes(gzip.compress(bytes(40 << 20)))
    with pytest.raises(ValueError, match=r"a.tar.gz unpacks to more than 0.0 GB.*--cache-gb"):
        Cache(folder, limit=1 << 20).local(str(bomb))
    monkeypatch.setattr(train.cache, "FREE", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to more than"):
        Cache(folder).local(str(bomb))
    bomb.write_bytes(gzip.compress(b"dog" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"a.tar.gz cannot be unpacked"):
        Cache(folder).local(str(bomb))
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("ending", [".lock", ".part", ".tar"])
def test_a_planted_link_is_not_followed(tmp_path: Path, ending: str) -> None:
    shard, folder, victim = packed(tmp_path / "a.tar.gz", range(1)), tmp_path / "cache", tmp_path / "victim"
    copy = Cache(folder).local(str(shard))
    victim.write_text("mine")
    copy.unlink()
    copy.with_suffix(ending).unlink(missing_ok=True)
    copy.with_suffix(ending).symlink_to(victim)
    try:
        Cache(folder).local(str(shard))
    except OSError as error:
        assert ending != ".tar" and "link" in str(error)
    assert victim.read_text() == "mine"


def test_a_folder_that_others_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, folder = packed(tmp_path / "a.tar.gz", range(1)), tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ValueError, match="open to other users"):
        Cache(folder).local(str(shard))
    folder.chmod(0o755)
    assert Cache(folder).local(str(shard)).exists(), "a folder that was asked for may be read by others"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ValueError, match="belongs to somebody else"):
        Cache(folder).local(str(shard))


def test_own_folders_are_below_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    place = private.folder("shards")
    assert place == tmp_path / "xdg/openwit/shards" and stat.S_IMODE(place.stat().st_mode) == 0o700
    assert Cache().folder == place
    assert cli_runtime.worker_log("s3://bucket/run").startswith(str(tmp_path / "xdg/openwit/logs/"))
    place.chmod(0o755)
    with pytest.raises(ValueError, match="chmod 700"):
        private.folder("shards")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lonely = private.folder("shards")
    assert lonely == private.folder("shards") and lonely.parent == Path(tempfile.gettempdir())
    assert stat.S_IMODE(lonely.stat().st_mode) == 0o700


def test_nothing_has_a_name_in_the_temporary_folder_that_can_be_guessed() -> None:
    root = Path(beam := cli_runtime.__file__).parent.parent
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for package in ("pipeline", "dedup", "queries", "train")
        for path in sorted((root / package).rglob("*.py"))
        for line in path.read_text().splitlines()
        if ("gettempdir" in line and "disk_usage" not in line) or '"/tmp' in line
    ]
    assert beam and not found, found


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom pipeline import storage\n"
        f"os.umask({umask})\nbase = sys.argv[1]\n"
        "storage.write_bytes(base + '/a/b.json', b'1')\nstorage.write_bytes(base + '/a/b.json', b'2')\n"
        "assert storage.create_bytes(base + '/c', b'3') and not storage.create_bytes(base + '/c', b'4')\n"
        "with storage.atomic_output(base + '/d') as path: path.write_bytes(b'5')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert [path.name for path in files] == ["b.json", "c", "d"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o666 & ~umask] * 3


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="link"), lock(str(tmp_path / "work")):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
    assert storage.read_bytes(str(tmp_path / "victim")) == b"mine"
