"""Child processes decode as threads do, and their crashes, limits and ends cost one call."""

import gc
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import psutil
import pytest

from poolservice.errors import InvalidRequest
from poolservice_server.images import ColorMode, DecoderEnded, decode, decode_processes, decoder_process, scan
from poolservice_server.images.decode_processes import DecodeProcesses
from poolservice_server.stop import WorkStopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="child processes decode on Linux only")

MAX_PIXELS = 50_000_000


@pytest.fixture
def processes() -> Iterator[DecodeProcesses]:
    with DecodeProcesses(1) as started:
        yield started


def child_of_this_process() -> int:
    """Return the id of the only decoding child."""
    (pid,) = [
        child.pid
        for child in psutil.Process().children()
        if "poolservice_server.images.decode_child" in child.cmdline()
    ]
    return pid


def decode_in_child(
    processes: DecodeProcesses, file: bytes, mode: ColorMode = "RGB", stop: Callable[[], bool] = lambda: False
) -> np.ndarray:
    return processes.decode_scanned(scan(file, max_pixels=MAX_PIXELS), mode, max_pixels=MAX_PIXELS, stop=stop)


def test_children_decode_as_threads_do(processes: DecodeProcesses, files: Mapping[str, bytes]) -> None:
    modes: tuple[ColorMode, ...] = ("RGB", "GRAY", "RGBA")
    for name, file in files.items():
        for mode in modes:
            expected = decode(file, mode, max_pixels=MAX_PIXELS)
            np.testing.assert_array_equal(decode_in_child(processes, file, mode), expected, err_msg=name)
    jpeg = scan(files["jpeg_progressive"], max_pixels=MAX_PIXELS)
    planes = processes.decode_scanned(jpeg, "RGB", max_pixels=MAX_PIXELS, interleaved=True)
    np.testing.assert_array_equal(planes, decode(files["jpeg_progressive"], "RGB", max_pixels=MAX_PIXELS))


def test_errors_are_the_same_as_on_threads(processes: DecodeProcesses, files: Mapping[str, bytes]) -> None:
    for kind in ("jpeg", "png", "gif", "webp", "tiff_tiff_lzw"):
        cut = files[kind][: len(files[kind]) * 2 // 3]
        with pytest.raises(InvalidRequest) as on_thread:
            decode(cut, "RGB", max_pixels=MAX_PIXELS)
        with pytest.raises(InvalidRequest) as in_child:
            decode_in_child(processes, cut)
        assert (in_child.value.field, in_child.value.reason) == (on_thread.value.field, on_thread.value.reason)


def send_while_decoding(child: int, number: int) -> Callable[[], bool]:
    """Stop a child, which cannot finish then, and return the function `stop`, which sends it a signal.

    `stop` is called after the request has been sent.
    """
    os.kill(child, signal.SIGSTOP)

    def stop() -> bool:
        os.kill(child, number)
        os.kill(child, signal.SIGCONT)
        return False

    return stop


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGXCPU])
def test_an_image_that_crashes_a_child_is_refused_and_costs_one_call(
    processes: DecodeProcesses, files: Mapping[str, bytes], fault: signal.Signals
) -> None:
    child = child_of_this_process()
    with pytest.raises(InvalidRequest, match=rf"the JPEG decoder crashed \({fault.name}\) on this image") as caught:
        decode_in_child(processes, files["jpeg"], stop=send_while_decoding(child, fault))
    assert caught.value.field == "image.data"
    assert child_of_this_process() != child
    assert decode_in_child(processes, files["jpeg"]).shape == (3, 67, 45)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 2, "signal 36")])
def test_a_child_that_is_killed_from_outside_does_not_blame_the_image(
    processes: DecodeProcesses, files: Mapping[str, bytes], number: int, name: str
) -> None:
    child = child_of_this_process()
    with pytest.raises(DecoderEnded, match=rf"ended from outside \({name}\)"):
        decode_in_child(processes, files["jpeg"], stop=send_while_decoding(child, number))
    assert decode_in_child(processes, files["jpeg"]).shape == (3, 67, 45)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_process_group_do_not_end_a_child(
    processes: DecodeProcesses, files: Mapping[str, bytes], number: signal.Signals
) -> None:
    # A child that has decoded has started completely.
    decode_in_child(processes, files["jpeg"])
    child = child_of_this_process()
    assert decode_in_child(processes, files["jpeg"], stop=send_while_decoding(child, number)).shape == (3, 67, 45)
    assert child_of_this_process() == child


def test_an_image_that_is_decoded_during_close_fails_because_the_server_stops(files: Mapping[str, bytes]) -> None:
    with DecodeProcesses(1) as processes:
        os.kill(child_of_this_process(), signal.SIGSTOP)

        def close() -> bool:
            processes.close()
            return False

        with pytest.raises(DecoderEnded, match="the server is stopping"):
            decode_in_child(processes, files["jpeg"], stop=close)


def test_a_child_that_was_killed_while_idle_is_replaced(processes: DecodeProcesses, files: Mapping[str, bytes]) -> None:
    child = child_of_this_process()
    os.kill(child, signal.SIGKILL)
    psutil.Process(child).wait()
    assert decode_in_child(processes, files["jpeg"]).shape == (3, 67, 45)


def test_a_child_that_cannot_be_replaced_now_is_replaced_later(
    processes: DecodeProcesses, files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = child_of_this_process()
    os.kill(child, signal.SIGKILL)
    psutil.Process(child).wait()

    def fail(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError("no more processes")

    with monkeypatch.context() as failing:
        failing.setattr(subprocess, "Popen", fail)
        for _ in range(2):
            with pytest.raises(BlockingIOError, match="no more processes"):
                decode_in_child(processes, files["jpeg"])
    assert decode_in_child(processes, files["jpeg"]).shape == (3, 67, 45)


def test_decoding_after_close_fails_at_once(files: Mapping[str, bytes]) -> None:
    processes = DecodeProcesses(1)
    processes.close()
    for _ in range(2):
        with pytest.raises(DecoderEnded, match="the server is stopping"):
            decode_in_child(processes, files["jpeg"])


def test_a_child_that_does_not_stop_is_killed(processes: DecodeProcesses, files: Mapping[str, bytes]) -> None:
    child = child_of_this_process()
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(WorkStopped):
        decode_in_child(processes, files["jpeg"], stop=lambda: True)
    assert not psutil.pid_exists(child)


def test_a_child_stops_a_long_decode_by_itself(
    processes: DecodeProcesses, write_png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "_STOPPING_SECONDS", 3600.0)
    child = child_of_this_process()
    file = write_png(7000, 7000, 8, 2, zlib.compress(bytes(7000 * 21001), 1))
    with pytest.raises(WorkStopped):
        decode_in_child(processes, file, stop=lambda: True)
    assert child_of_this_process() == child


def test_a_child_that_takes_too_long_is_killed(
    processes: DecodeProcesses, files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = child_of_this_process()
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr(decode_processes, "_SPARE_SECONDS", 0.01)
    with pytest.raises(InvalidRequest, match=r"the JPEG decoder took more than 0.0\d+ s for this image"):
        decode_in_child(processes, files["jpeg"])
    assert not psutil.pid_exists(child)


def test_the_memory_of_a_child_is_limited(
    processes: DecodeProcesses, write_png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_png(4000, 3000, 8, 2, zlib.compress(bytes(3000 * 12001), 1))
    monkeypatch.setattr(decode_processes, "_SPARE_BYTES", -150_000_000)
    with pytest.raises(InvalidRequest, match=r"decoding the PNG file takes more than \d+ bytes") as caught:
        decode_in_child(processes, file)
    assert caught.value.field == "image.data"
    monkeypatch.undo()
    assert decode_in_child(processes, file).shape == (3, 3000, 4000)


def test_closing_ends_the_children_and_leaves_nothing(files: Mapping[str, bytes]) -> None:
    # Errors that earlier tests caught keep their sockets.
    gc.collect()
    before = set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    # Other tests have servers of their own.
    others = {child.pid for child in psutil.Process().children()}
    with DecodeProcesses(2) as processes:
        children = {child.pid for child in psutil.Process().children()} - others
        assert len(children) == 2
        planes = decode_in_child(processes, files["png"])
    assert not any(psutil.pid_exists(child) for child in children)
    del planes
    assert (set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))) == before


_PARENT = """
import os, signal, sys
import psutil
from poolservice_server.images.decode_processes import DecodeProcesses

processes = DecodeProcesses(2)
print(*(child.pid for child in psutil.Process().children()), flush=True)
sys.stdin.read()
"""


def test_children_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
