"""What Python programs do beside computing: processes, threads, locks, sockets, files, other programs."""

import asyncio
import http.server
import mmap
import multiprocessing
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
from multiprocessing import shared_memory


def square(number):
    return number * number


def add(total, lock, block):
    for _ in range(1000):
        with lock:
            total.value += 1
    memory = shared_memory.SharedMemory(block)
    memory.buf[0] += 1
    memory.close()


def pools():
    with multiprocessing.Pool(8) as pool:
        assert sum(pool.map(square, range(1000))) == 332833500
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        total, lock = context.Value("i", 0, lock=False), context.Lock()
        memory = shared_memory.SharedMemory(create=True, size=mmap.PAGESIZE)
        workers = [context.Process(target=add, args=(total, lock, memory.name)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert (total.value, memory.buf[0] > 0) == (3000, True), method
        memory.close()
        memory.unlink()


def servers():
    os.chdir(tempfile.mkdtemp())
    pathlib.Path("page").write_text("served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = []
    page = f"http://127.0.0.1:{server.server_port}/page"
    get = lambda: found.append(urllib.request.urlopen(page).read())
    threads = [threading.Thread(target=get) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"served"] * 20
    server.shutdown()
    for family, address in ((socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, "socket")):
        with socket.socket(family) as listener, socket.socket(family) as peer:
            listener.bind(address)
            listener.listen()
            peer.connect(listener.getsockname())


def files():
    with sqlite3.connect("data.db") as data:
        data.execute("pragma journal_mode = wal")
        data.execute("create table t (n)")
        data.executemany("insert into t values (?)", ((n,) for n in range(1000)))
        assert data.execute("select sum(n) from t").fetchone() == (499500,)
    with open("mapped", "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:5] = b"hello"
            mapped.flush()
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert file.read(5) == b"hello"
    os.setxattr("mapped", "user.note", b"noted")
    assert os.getxattr("mapped", "user.note") == b"noted"
    os.link("mapped", "linked")
    os.copy_file_range(os.open("mapped", os.O_RDONLY), os.open("copied", os.O_CREAT | os.O_WRONLY), 5)
    assert pathlib.Path("copied").read_bytes() == b"hello"


def programs():
    async def several():
        start = lambda n: asyncio.create_subprocess_exec("echo", str(n), stdout=subprocess.PIPE)
        started = [await start(n) for n in range(20)]
        said = await asyncio.gather(*(process.communicate() for process in started))
        assert [int(out) for out, _ in said] == list(range(20))

    asyncio.run(several())
    master, slave = os.openpty()
    subprocess.run(["tty"], stdin=slave, stdout=slave, check=True)
    assert os.read(master, 100).startswith(b"/dev/pts/")
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    os.killpg(sleeper.pid, signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    assert time.clock_gettime(time.CLOCK_BOOTTIME) > 0
    os.nice(5)
    assert os.cpu_count() >= len(os.sched_getaffinity(0))


if __name__ == "__main__":
    for part in (pools, servers, files, programs):
        part()
        print(part.__name__, flush=True)
