import subprocess
import sys

_START = """
import ctypes, time
from pipeline.matching import watchdog
watchdog._GRACE_SECONDS = 0.5
dog = watchdog.Watchdog(1.0, lambda: print("silence", flush=True))
"""
_PAUSES = """
with dog.on_guard():
    for _ in range(3):
        time.sleep(0.6)
        dog.alive()
print("alive after 1.8 s", flush=True)
time.sleep(1.7)
print("alive while nobody is on guard", flush=True)
"""
_HANGS = """
with dog.on_guard():
    time.sleep(60)
"""
_HANGS_WITH_THE_LOCK = """
with dog.on_guard():
    ctypes.PyDLL(None).sleep(60)
"""


def _run(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "".join(code)], capture_output=True, text=True, timeout=50)


def test_a_process_that_gives_no_sign_of_life_is_ended() -> None:
    ended = _run(_START, _PAUSES, _HANGS)

    assert ended.stdout.splitlines() == ["alive after 1.8 s", "alive while nobody is on guard", "silence"]
    assert ended.returncode == 1
    assert 'File "<string>", line 16 in <module>' in ended.stderr


def test_even_where_it_holds_the_lock_of_the_interpreter() -> None:
    ended = _run(_START, _HANGS_WITH_THE_LOCK)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert 'File "<string>", line 8 in <module>' in ended.stderr
