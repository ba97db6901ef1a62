"""setup.sh with a local server that misbehaves like real ones."""

import contextlib
import gzip
import io
import os
import pty
import random
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parent.parent / "setup.sh"
TOOLS = "bash cat curl df dirname find flock grep gzip head mkdir mktemp mv od readlink rm sleep tail tar tr wc env".split()
PAGE = b"<!DOCTYPE html>\n<html><body>Box: this shared file has been removed.</body></html>"


@dataclass
class Served:
    """The file at one address, and how the server misbehaves."""

    content: bytes
    type: str = "application/octet-stream"
    etag: str = '"first"'
    status: int = 200
    head_status: int | None = None
    claimed: int | None = None  # the Content-Length sent, if not the real one
    headers: dict = field(default_factory=dict)
    ranges: bool = True
    page_for_get: bool = False
    told: bool = True  # whether a Content-Length is sent
    drops: list = field(default_factory=list)  # bytes after which each GET is disconnected, in order
    stalls: list = field(default_factory=list)  # bytes after which each GET stalls, in order


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        served = self.server.files[self.path]
        self.answer(served, served.head_status or served.status, 0)

    def do_GET(self):
        served = self.server.files[self.path]
        if served.page_for_get:
            self.answer(Served(PAGE, type="text/html"), 200, 0)
            return self.wfile.write(PAGE)
        asked = self.headers.get("Range") if served.ranges and served.status == 200 else None
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        end = len(served.content)
        if asked and not asked.endswith("-"):
            end = int(asked.split("-")[1]) + 1
        if asked and start >= end:
            return self.send_error(416, "Range not satisfiable")
        body = served.content[start:end]
        self.answer(served, 206 if asked else served.status, start, end)
        if served.drops:
            body = body[: served.drops.pop(0)]
        quiet = served.stalls.pop(0) if served.stalls else None
        request = {"path": self.path, "start": start, "sent": 0}
        self.server.gets.append(request)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:quiet])
            request["sent"] = len(body[:quiet])
            if quiet is not None:
                self.server.closing.wait(20)

    def answer(self, served, status, start, end=None):
        length = served.claimed or len(served.content)
        self.send_response(status)
        self.send_header("Content-Type", served.type)
        self.send_header("ETag", served.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{length}")
            length = end - start if end < len(served.content) else length - start
        if served.told:
            self.send_header("Content-Length", str(length))
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.files, server.gets, server.closing = {}, [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def environment(server, **variables):
    """All addresses point to `server`; retries are immediate."""
    base = f"http://127.0.0.1:{server.server_port}"
    names = "chairs tables chairs_models tables_models linear_head chairs_50_views".split()
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("SRN_")}
    return (
        kept
        | {f"SRN_{name.upper()}_URL": f"{base}/{name}" for name in names}
        | {"SRN_RETRY_SECONDS": "0", "SRN_RETRIES": "3", "CURL_HOME": "/nonexistent"}
        | variables
    )


@pytest.fixture
def fetch(server, tmp_path):
    """Runs the script on tmp_path/data; the default of --only is chairs."""

    def call(*flags, folder=tmp_path / "data", only="chairs", **variables):
        command = [SCRIPT, folder, *(["--only", only] if only else []), *flags]
        return subprocess.run(
            command, env=environment(server, **variables), cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return call


def refused(done, *reasons):
    """Asserts exit code 2 and one sentence that contains the reasons."""
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("setup.sh: "), done
    for reason in reasons:
        assert reason in done.stderr, done
    return True


def succeeded(done):
    assert (done.returncode, done.stderr) == (0, ""), done
    return True


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def archive(files, extra=()):
    """A .tar.gz of {name: bytes} and of the TarInfo in `extra`, which are links and devices."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


def published(obj="Chair", top="", size=300_000):
    return archive(
        {
            f"{top}{obj}/{obj}-level-1.txt": b"0 background\n",
            f"{top}{obj}/{obj}.train/one/rgb/000000.png": noise(size),
            f"{top}{obj}/{obj}.val/two/rgb/000000.png": noise(1000),
        }
    )


def checkpoint(size=100_000):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("archive/data/0"), noise(size))
    return buffer.getvalue()


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def sent(server):
    return sum(get["sent"] for get in server.gets)


def starts(server):
    return [get["start"] for get in server.gets]


def test_chairs_and_tables_are_fetched_and_the_second_run_fetches_nothing(server, fetch, tmp_path):
    server.files["/chairs"] = Served(b"", status=302, headers={"Location": "/moved"})  # redirects as Box does
    server.files["/moved"] = Served(published())
    server.files["/tables"] = Served(published("Table"))
    assert succeeded(fetch(only=None))
    image = tmp_path / "data" / "Chair" / "Chair.train" / "one" / "rgb" / "000000.png"
    assert image.read_bytes() == noise(300_000)
    assert entries(tmp_path / "data" / "Table") == ["Table-level-1.txt", "Table.train", "Table.val"]
    assert entries(tmp_path / "data") == [".downloads", "Chair", "Table"]
    assert entries(tmp_path / "data" / ".downloads") == ["lock"]
    gets, started = len(server.gets), time.monotonic()
    server.files.clear()  # every request would now fail
    again = fetch(only=None)
    assert succeeded(again) and again.stdout.count("already") == 2
    assert len(server.gets) == gets and time.monotonic() - started < 5


def test_a_dropped_connection_is_resumed_in_the_same_run(server, fetch, tmp_path):
    content = published()
    server.files["/chairs"] = Served(content, drops=[100_000, 120_000])
    assert succeeded(fetch())
    assert starts(server) == [0, 100_000, 220_000] and sent(server) == len(content)
    assert (tmp_path / "data" / "Chair" / "Chair.train").is_dir()


def test_an_abandoned_download_is_resumed_by_the_next_run(server, fetch, tmp_path):
    content = published()
    server.files["/chairs"] = Served(content, drops=[100_000])
    assert refused(fetch(SRN_RETRIES="1"), "chairs", "broke off", "gave up after 1 attempts")
    assert entries(tmp_path / "data") == [".downloads"]
    assert succeeded(fetch())
    assert starts(server) == [0, 100_000] and sent(server) == len(content)


def test_attempts_that_make_progress_do_not_count_as_retries(server, fetch):
    content = published(size=7_000_000)
    server.files["/chairs"] = Served(content, drops=[1_500_000] * 4)
    assert succeeded(fetch(SRN_RETRIES="2"))
    assert len(server.gets) == 5 and sent(server) == len(content)


def test_attempts_without_progress_are_limited(server, fetch):
    server.files["/chairs"] = Served(published(), ranges=False, drops=[100_000] * 9)
    assert refused(fetch(), "broke off", "gave up after 3 attempts")
    assert 3 <= len(server.gets) <= 6


def test_a_silent_connection_counts_as_broken(server, fetch):
    content = published()
    server.files["/chairs"] = Served(content, stalls=[900])
    started = time.monotonic()
    assert succeeded(fetch(SRN_STALL_SECONDS="1"))
    assert starts(server) == [0, 900] and time.monotonic() - started < 10


def test_without_ranges_the_download_restarts_and_nothing_is_appended(server, fetch, tmp_path):
    server.files["/linear_head"] = Served(checkpoint(), ranges=False, drops=[60_000])
    assert succeeded(fetch(only="linear_head"))
    (file,) = (tmp_path / "data" / "models" / "linear_head").iterdir()
    assert file.name == "epoch_2500_iter_005000.pth" and file.read_bytes() == checkpoint()


def test_without_head_requests_the_first_byte_is_requested(server, fetch, tmp_path):
    for ranges in (True, False):
        server.files["/chairs"] = Served(published(), head_status=405, ranges=ranges)
        listed = fetch("--list")
        assert succeeded(listed) and "0.3 MB" not in listed.stdout and f"{len(published())} bytes" in listed.stdout
    assert succeeded(fetch())


def test_a_file_of_unknown_length_is_fetched_and_never_resumed(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published(), told=False)
    assert succeeded(fetch())
    folder = tmp_path / "data" / ".downloads"
    (folder / "tables.part").write_bytes(noise(5000))  # as an interrupted run leaves it
    (folder / "tables.part.of").write_text(' "first"\n')
    server.files["/tables"] = Served(published("Table"), told=False)
    assert succeeded(fetch(only="tables")) and starts(server) == [0, 0]


@pytest.mark.parametrize("change", [{"etag": '"second"'}, {"size": 250_000}])
def test_a_file_that_changed_between_two_runs_is_fetched_anew(server, fetch, tmp_path, change):
    server.files["/chairs"] = Served(published(top="old/"), drops=[100_000])
    assert refused(fetch(SRN_RETRIES="1"))
    content = published(size=change.get("size", 300_000))
    server.files["/chairs"] = Served(content, etag=change.get("etag", '"first"'))
    done = fetch()
    assert succeeded(done) and "starting anew" in done.stdout
    assert starts(server) == [0, 0] and (tmp_path / "data" / "Chair" / "Chair.train").is_dir()


def test_a_server_that_promises_more_than_it_sends_is_found_out(server, fetch, tmp_path):
    content = published()
    server.files["/chairs"] = Served(content, claimed=len(content) + 1000)
    assert refused(fetch(), f"promised {len(content) + 1000} bytes and sent {len(content)}")
    assert entries(tmp_path / "data") == [".downloads"] and sent(server) == len(content)


@pytest.mark.parametrize("name, content", [("chairs", published()), ("linear_head", checkpoint())])
def test_a_server_that_promises_less_than_it_sends_is_found_out(server, fetch, tmp_path, name, content):
    server.files[f"/{name}"] = Served(content, claimed=len(content) - 1000)
    assert refused(fetch(only=name), name, "cut short", "deleted")
    assert entries(tmp_path / "data") == [".downloads"]
    server.files[f"/{name}"].claimed = None
    assert succeeded(fetch(only=name))


def test_a_truncated_archive_is_not_unpacked(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published()[:200_000])
    assert refused(fetch(), "chairs: the archive is damaged or cut short", "gzip", "unexpected end of file")
    assert entries(tmp_path / "data") == [".downloads"] and entries(tmp_path / "data" / ".downloads") == ["lock"]


def test_a_damaged_archive_is_not_unpacked(server, fetch, tmp_path):
    content = bytearray(published())
    content[150_000] ^= 1
    server.files["/chairs"] = Served(bytes(content))
    assert refused(fetch(), "damaged")
    assert entries(tmp_path / "data") == [".downloads"]


@pytest.mark.parametrize(
    "content, reason", [(b"plain text", "not a gzip archive"), (archive({}), "the archive is empty")], ids=["text", "empty"]
)
def test_a_file_that_is_no_archive_is_named(server, fetch, tmp_path, content, reason):
    server.files["/chairs"] = Served(content)
    assert refused(fetch(), reason) and entries(tmp_path / "data") == [".downloads"]


@pytest.mark.parametrize("name", ["chairs", "linear_head"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_in_place_of_the_file_is_named(server, fetch, tmp_path, name, kind):
    server.files[f"/{name}"] = Served(PAGE, type=kind)
    assert refused(fetch(only=name), f"/{name} sent a web page, not a file", f"SRN_{name.upper()}_URL")
    assert entries(tmp_path / "data") == [".downloads"]


def test_a_temporary_web_page_does_not_discard_the_download(server, fetch, tmp_path):
    content = published()
    good = server.files["/chairs"] = Served(content, drops=[100_000])
    assert refused(fetch(SRN_RETRIES="1"))
    server.files["/chairs"] = Served(PAGE, type="text/html")
    assert refused(fetch(), "web page")
    server.files["/chairs"] = Served(content, page_for_get=True)  # HEAD describes the file
    assert refused(fetch(), "web page")
    server.files["/chairs"] = good
    assert succeeded(fetch()) and sent(server) == len(content)


def test_a_web_page_that_only_get_sends_is_not_taken_for_the_start_of_the_file(server, fetch, tmp_path):
    content = published()
    server.files["/chairs"] = Served(content, page_for_get=True)
    assert refused(fetch(), "web page")
    server.files["/chairs"] = Served(content)
    assert succeeded(fetch()) and starts(server) == [0]


def test_a_missing_address_is_reported_at_once(server, fetch):
    server.files["/chairs"] = Served(b"gone", status=404)
    assert refused(fetch(), "chairs", "answers with status 404", "SRN_CHAIRS_URL")
    assert len(server.gets) <= 2  # the first byte is asked for where HEAD fails; nothing is retried


def test_an_overloaded_or_absent_server_is_retried(server, fetch):
    server.files["/chairs"] = Served(b"busy", status=503)
    assert refused(fetch(), "answers with status 503", "gave up after 3 attempts")
    assert refused(fetch(SRN_CHAIRS_URL="http://127.0.0.1:9/x"), "could not be reached", "gave up after 3 attempts")
    assert refused(fetch(SRN_CHAIRS_URL="file:///etc/passwd"), "not an http or https address")


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "files, extra",
    [
        ({"../evil": b"x"}, []),
        ({"Chair/../../evil": b"x"}, []),
        ({"/tmp/evil": b"x"}, []),
        ({}, [member("Chair/x", tarfile.SYMTYPE, "/etc")]),
        ({}, [member("Chair/x", tarfile.SYMTYPE, "../../..")]),
        ({}, [member("Chair/x", tarfile.SYMTYPE, "..")]),
        ({}, [member("Chair/x", tarfile.LNKTYPE, "/etc/passwd")]),
        ({}, [member("Chair/x", tarfile.LNKTYPE, "../b")]),
        ({}, [member("Chair/x", tarfile.CHRTYPE)]),
        ({}, [member("Chair/x", tarfile.FIFOTYPE)]),
    ],
    ids="up inside_up absolute link link_up link_dots hard_link hard_link_up device pipe".split(),
)
def test_a_member_that_leads_outside_stops_the_archive(server, fetch, tmp_path, files, extra):
    server.files["/chairs"] = Served(archive({"Chair/Chair.train/a": b"x"} | files, extra))
    assert refused(fetch(), "leads out of its folder", "not unpacked")
    assert entries(tmp_path / "data") == [".downloads"] and entries(tmp_path) == ["data"]


def test_links_inside_an_archive_and_odd_names_are_kept(server, fetch, tmp_path):
    files = {"Chair/Chair.train/a..b/c -> .txt": b"x", "Chair/Chair.train/two\nlines": b"y"}
    server.files["/chairs"] = Served(archive(files, [member("Chair/Chair.test", tarfile.SYMTYPE, "Chair.train")]))
    assert succeeded(fetch())
    folder = tmp_path / "data" / "Chair"
    assert (folder / "Chair.test" / "a..b" / "c -> .txt").read_bytes() == b"x"
    assert (folder / "Chair.train" / "two\nlines").read_bytes() == b"y"


def test_a_link_to_the_folder_of_the_splits_is_not_used_as_the_folder(server, fetch, tmp_path):
    files = {"real/Chair/Chair.train/a": b"x"}
    server.files["/chairs"] = Served(archive(files, [member("Chair", tarfile.SYMTYPE, "real/Chair")]))
    assert succeeded(fetch())
    assert (tmp_path / "data" / "Chair" / "Chair.train" / "a").read_bytes() == b"x"


def test_an_archive_padded_with_zeros_is_whole(server, fetch):
    server.files["/chairs"] = Served(gzip.compress(gzip.decompress(published(size=1000)) + bytes(10_000_000)))
    assert succeeded(fetch())


def test_no_special_rights_come_out_of_an_archive(server, fetch, tmp_path):
    program = member("Chair/Chair.train/program", tarfile.REGTYPE)
    program.mode = 0o6777
    server.files["/chairs"] = Served(archive({}, [program]))
    assert succeeded(fetch())
    assert (tmp_path / "data" / "Chair" / "Chair.train" / "program").stat().st_mode & 0o7002 == 0


@pytest.mark.parametrize("top", ["", "./", "release/v1/"])
def test_the_folder_of_the_splits_is_found_wherever_it_is(server, fetch, tmp_path, top):
    server.files["/chairs"] = Served(published(top=top))
    (tmp_path / "data" / "Chair").mkdir(parents=True)  # an empty folder does not prevent it
    assert succeeded(fetch())
    assert entries(tmp_path / "data" / "Chair") == ["Chair-level-1.txt", "Chair.train", "Chair.val"]


def test_an_archive_without_a_folder_around_the_splits_gets_one(server, fetch, tmp_path):
    server.files["/chairs"] = Served(archive({"Chair.train/a/rgb/0.png": b"x", "Chair-level-1.txt": b"0"}))
    assert succeeded(fetch()) and entries(tmp_path / "data" / "Chair") == ["Chair-level-1.txt", "Chair.train"]


def test_nothing_that_lies_beside_the_splits_is_lost(server, fetch, tmp_path):
    server.files["/chairs"] = Served(archive({"v1/Chair/Chair.train/a": b"x", "v1/licence": b"by"}))
    assert succeeded(fetch())
    assert (tmp_path / "data" / "Chair" / "rest_of_the_archive" / "v1" / "licence").read_bytes() == b"by"


@pytest.mark.parametrize("files", [{"a/x": b"1", "b/y": b"2"}, {"a/A.train/x": b"1", "b/B.train/y": b"2"}])
def test_an_archive_of_another_layout_is_kept_and_reported(server, fetch, tmp_path, files):
    server.files["/chairs"] = Served(archive(files))
    done = fetch()
    assert succeeded(done) and "2 entries: a b" in done.stdout and "no folder Chair.train was found" in done.stdout
    assert entries(tmp_path / "data" / "Chair") == ["a", "b"]


def test_models_flag_fetches_the_checkpoints_too(server, fetch, tmp_path):
    for name, obj in (("chairs", "Chair"), ("tables", "Table")):
        server.files[f"/{name}"] = Served(published(obj))
        server.files[f"/{name}_models"] = Served(archive({"any/srn/epoch_0001_iter_000002.pth": checkpoint()}))
    server.files["/linear_head"] = Served(checkpoint())
    server.files["/chairs_50_views"] = Served(b"\x80\x02" + noise(5000))
    done = fetch("--models", only=None)
    assert succeeded(done) and "no folder" not in done.stdout
    found = sorted(str(path.relative_to(tmp_path / "data" / "models")) for path in tmp_path.rglob("*.pth"))
    assert found == [
        "Chair/srn/epoch_0001_iter_000002.pth",
        "Table/srn/epoch_0001_iter_000002.pth",
        "chairs_50_views/epoch_0026_iter_080000.pth",
        "linear_head/epoch_2500_iter_005000.pth",
    ]


@pytest.mark.parametrize(
    "content, reason", [(b"", "not a checkpoint"), (b"no checkpoint", "not a checkpoint"), (checkpoint()[:-30], "cut short")]
)
def test_a_file_that_is_no_checkpoint_is_named(server, fetch, tmp_path, content, reason):
    server.files["/linear_head"] = Served(content)
    assert refused(fetch(only="linear_head"), "linear_head", reason) and not list(tmp_path.rglob("*.pth"))


def test_too_little_disk_space_stops_before_any_download(server, fetch):
    content = published()
    server.files["/chairs"] = server.files["/tables"] = Served(content)
    need = 5 * len(content)  # the estimate for both unpacked, and one download at a time
    kept = 6 * len(content)
    assert refused(fetch(only="chairs,tables", SRN_FREE_BYTES=str(need - 1)), "disk", "--no_space_check")
    assert refused(fetch("--keep", only="chairs,tables", SRN_FREE_BYTES=str(kept - 1)), "disk")
    assert not server.gets
    assert succeeded(fetch(only="chairs,tables", SRN_FREE_BYTES=str(need)))


def test_fetched_files_need_no_further_disk_space(server, fetch):
    content = published()
    server.files["/chairs"] = Served(content, drops=[100_000])
    assert refused(fetch(SRN_RETRIES="1"))
    need = 3 * len(content) - 100_000
    assert refused(fetch(SRN_FREE_BYTES=str(need - 1)), "disk")
    assert succeeded(fetch(SRN_FREE_BYTES=str(need)))


def test_the_real_disk_is_measured(server, fetch):
    server.files["/chairs"] = Served(published(), claimed=10**17)
    assert refused(fetch(), "needs 300000000.0 GB of disk", "GB are free") and not server.gets


def test_the_space_check_can_be_waived(server, fetch):
    server.files["/chairs"] = Served(published())
    assert succeeded(fetch("--no_space_check", SRN_FREE_BYTES="1"))


def test_an_archive_that_unpacks_to_more_than_guessed_waits_for_room_without_a_second_download(server, fetch, tmp_path):
    server.files["/chairs"] = Served(archive({"Chair/Chair.train/a": bytes(5_000_000)}))
    assert refused(fetch(SRN_FREE_BYTES="4000000"), "unpacking chairs needs 5.0 MB of disk, 4.0 MB are free")
    assert entries(tmp_path / "data") == [".downloads"]
    assert succeeded(fetch()) and len(server.gets) == 1


def test_list_shows_sizes_and_what_is_there_and_fetches_nothing(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published(), claimed=23_100_000_000)
    server.files["/tables"] = Served(PAGE, type="text/html")
    done = fetch("--list", only=None)
    assert succeeded(done) and not server.gets and entries(tmp_path) == []
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "23.1 GB" in rows["chairs"] and "to fetch" in rows["chairs"] and "linear_head" not in rows
    assert "size unknown" in rows["tables"] and "a web page answers" in rows["tables"]
    assert "Google Drive" in done.stdout
    (tmp_path / "data" / "Chair" / "Chair.train").mkdir(parents=True)
    (tmp_path / "data" / "Table").mkdir()  # empty, so it does not count
    (tmp_path / "data" / ".downloads").mkdir()
    (tmp_path / "data" / ".downloads" / "tables.part").write_bytes(bytes(2_500_000))
    done = fetch("--list", "--models", only=None, SRN_TABLES_URL="http://127.0.0.1:9/x")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "already there" in rows["chairs"] and "2.5 MB fetched" in rows["tables"] and "no answer" in rows["tables"]
    assert "46 GB" in rows["tables"] and "linear_head" in rows


def test_keep_leaves_the_archive_for_reuse(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published())
    assert succeeded(fetch("--keep"))
    assert (tmp_path / "data" / ".downloads" / "chairs.part").read_bytes() == published()
    shutil.rmtree(tmp_path / "data" / "Chair")
    assert succeeded(fetch()) and len(server.gets) == 1


@contextlib.contextmanager
def running(server, folder, *flags, **variables):
    program = subprocess.Popen(
        [SCRIPT, folder, "--only", "chairs", *flags],
        env=environment(server, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=60)


def wait_for(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_download_is_resumed(server, fetch, tmp_path, number, code):
    content = published(size=2_000_000)
    server.files["/chairs"] = Served(content, stalls=[1_000_000])
    part = tmp_path / "data" / ".downloads" / "chairs.part"
    with running(server, tmp_path / "data") as program:
        wait_for(lambda: part.exists() and part.stat().st_size >= 900_000)
        started = time.monotonic()
        program.send_signal(number)
        assert program.wait(10) == code and time.monotonic() - started < 5
    assert entries(tmp_path / "data") == [".downloads"]
    fetched = part.stat().st_size
    assert succeeded(fetch())  # the lock is free and no curl is running
    assert starts(server) == [0, fetched] and (tmp_path / "data" / "Chair" / "Chair.train").is_dir()


def test_interrupted_unpacking_leaves_no_partial_folder(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published())
    tools = tmp_path / "tools"
    tools.mkdir()
    tar = shutil.which("tar")
    (tools / "tar").write_text(f'#!/bin/sh\n{tar} "$@"\ncase $1 in -x*) sleep 20;; esac\n')
    (tools / "tar").chmod(0o755)
    unpacked = tmp_path / "data" / ".downloads" / "chairs.unpacked"
    with running(server, tmp_path / "data", PATH=f"{tools}:{os.environ['PATH']}") as program:
        wait_for(lambda: list(unpacked.glob("*/Chair/Chair.val/two/rgb/*")))
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 143
    assert entries(tmp_path / "data") == [".downloads"] and not unpacked.exists()
    (unpacked / "all").mkdir(parents=True)  # as kill -9 would leave it
    (unpacked / "all" / "half").write_text("")
    assert succeeded(fetch()) and len(server.gets) == 1
    assert entries(tmp_path / "data" / "Chair") == ["Chair-level-1.txt", "Chair.train", "Chair.val"]


def test_two_runs_at_once_do_not_share_a_folder_and_a_killed_one_leaves_no_lock(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published(), stalls=[1000])
    with running(server, tmp_path / "data") as program:
        wait_for(lambda: server.gets)
        assert refused(fetch(), "another setup.sh runs there")
        program.kill()
        program.wait(10)
        assert refused(fetch(), "end it and its curl")  # its curl is still running
        server.closing.set()  # now curl ends too
        wait_for(lambda: fetch().returncode == 0)
    assert (tmp_path / "data" / "Chair" / "Chair.train").is_dir()


def test_a_terminal_shows_progress_and_a_log_does_not(server, fetch, tmp_path):
    server.files["/chairs"] = Served(published())
    terminal, end = pty.openpty()
    command = [SCRIPT, tmp_path / "other", "--only", "chairs"]
    subprocess.run(command, env=environment(server), stdout=subprocess.PIPE, stderr=end, check=True, timeout=60)
    assert b"100.0%" in os.read(terminal, 100_000)
    os.close(terminal)
    os.close(end)
    done = fetch()
    assert succeeded(done) and "%" not in done.stdout and len(done.stdout.splitlines()) < 8


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ([], "expected the FOLDER"),
        (["one", "two"], "found 'one' and 'two'"),
        (["data", "--modles"], "--modles is not an option"),
        (["data", "--only"], "--only needs comma-separated names"),
        (["data", "--only", "chairs,sofas"], "--only sofas names no download; expected one of: chairs tables"),
        (["data", "--only", ","], "--only , names no download"),
        (["file/data"], "cannot be made or written to"),
        (["/proc/data"], "cannot be made or written to"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(server, tmp_path, arguments, reason):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [SCRIPT, *arguments], env=environment(server), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert refused(done, reason) and entries(tmp_path) == ["file"]


def test_a_mistake_in_the_environment_is_one_sentence(fetch):
    assert refused(fetch(SRN_RETRIES="many"), "SRN_RETRIES must be a whole number, found 'many'")
    assert refused(fetch(SRN_CHAIR_URL="http://127.0.0.1/x"), "SRN_CHAIR_URL names no download")
    assert refused(fetch(SRN_CHAIRS_URL="http://127.0.0.1/a b"), "SRN_CHAIRS_URL", "no spaces")


def test_a_failure_of_a_command_ends_with_its_reason_and_exit_code_2(server, fetch, tmp_path):
    server.files["/linear_head"] = Served(checkpoint())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").write_text("")  # a file instead of a folder
    done = fetch(only="linear_head")
    assert done.returncode == 2 and "models" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["curl", "tar", "gzip", "flock"])
def test_a_missing_program_is_named(fetch, tmp_path, missing):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in set(TOOLS) - {missing}:
        (tools / name).symlink_to(shutil.which(name))
    assert refused(fetch(PATH=str(tools)), f"{missing} is missing")


def test_no_other_programs_are_needed(server, fetch, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    server.files |= {"/chairs": Served(published(), drops=[1000]), "/linear_head": Served(checkpoint())}
    assert succeeded(fetch(only="chairs,linear_head", PATH=str(tools)))


def test_help_names_every_download_and_variable(fetch):
    done = fetch("--help", only=None)
    assert succeeded(done)
    for word in ("chairs_50_views", "--models", "--list", "SRN_CHAIRS_URL", "SRN_FREE_BYTES", "SRN_RETRIES"):
        assert word in done.stdout
