"""Makes one of three layers, whose number is its argument, of all that files can be."""
import os
import subprocess
import sys

SECOND = 10**9
OLD = 1_234_567_890 * SECOND + 123_456_789
os.umask(0o022)
number = sys.argv[1]


def finish(path, mode=None, owner=(0, 0), time=OLD):
    os.chown(path, *owner, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, mode)
    os.utime(path, ns=(time, time), follow_symlinks=False)


def put(path, content=b"content", **what):
    with open(path, "wb") as file:
        file.write(content)
    finish(path, **what)


def run(*words):
    subprocess.run(words, check=True)


if number == "1":
    os.mkdir("/srv/all")
    os.chdir("/srv/all")
    names = [b" spaces around ", b"two\nlines", b"not \xff\xfe UTF-8", b"n" * 255, b"-rf", b"\xc3\xa4", b"back\\slash"]
    names += [b"*?[a]", b'"quoted\'', b"a=b", b"tab\t", b"\x01\x7f", b"...", b"PaxHeaders.0", b"wh.", b"%2e"]
    os.mkdir("names")
    for name in names:
        put(b"names/" + name, name)
    deep = b"deep"
    os.mkdir(deep)
    for level in range(3):
        deep += b"/" + b"d" * 120
        os.mkdir(deep)
    put(deep + b"/file")
    os.mkdir("modes")
    for mode in (0o000, 0o400, 0o644, 0o755, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777):
        put(f"modes/{mode:o}", mode=mode)
    for mode in (0o700, 0o1777, 0o2775):
        os.mkdir(f"modes/directory-{mode:o}")
        finish(f"modes/directory-{mode:o}", mode)
    os.mkdir("owners")
    for owner in ((1, 2), (1000, 1000), (65534, 65534), (0, 50000)):
        put("owners/%d-%d" % owner, mode=0o6755, owner=owner)
    os.mkdir("times")
    for time in (-3 * SECOND // 2, 0, 1, SECOND - 1, 2**31 * SECOND, 2**33 * SECOND + 5):
        put(f"times/{time}", time=time)
    os.mkdir("attributes")
    put("attributes/note")
    os.setxattr("attributes/note", "user.note", b"a\nb\0c=\xff")
    os.setxattr("attributes/note", "user.second", b"v" * 300)
    os.setxattr("attributes/note", "user.empty", b"")
    put("attributes/capability", mode=0o755)
    # cap_net_bind_service, effective and permitted.
    os.setxattr("attributes/capability", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.mkdir("attributes/directory")
    os.setxattr("attributes/directory", "user.note", b"directory")
    finish("attributes/directory")
    os.mkdir("links")
    put("links/one", b"one")
    for name in ("links/two", "three", "names/four"):
        os.link("links/one", name)
    os.symlink("nowhere", "links/dangling")
    os.symlink("/etc/passwd", "links/absolute")
    os.symlink(b"odd \xff\n" + b"t" * 300, "links/long")
    os.symlink("..", "links/up")
    for name in ("dangling", "absolute", "long", "up"):
        finish(f"links/{name}", owner=(7, 8))
    os.link("links/dangling", "links/dangling-too", follow_symlinks=False)
    os.mkfifo("fifo")
    finish("fifo", 0o640, (5, 6))
    with open("sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"middle")
    finish("sparse")
    put("empty", b"")
    put("gone")
    put("becomes-a-directory")
    for name in ("gone-directory/below", "remade/below", "becomes-a-file/below", "twice/below", "renamed/below", "kept"):
        os.makedirs(name)
        put(f"{name}/file", name.encode())
    os.makedirs("emptied/a/b")
elif number == "2":
    os.chdir("/srv/all")
    os.remove("gone")
    run("rm", "-r", "gone-directory")
    for name in ("remade", "twice"):
        run("rm", "-r", name)
        os.mkdir(name, 0o750)
        put(f"{name}/upper", b"upper")
        finish(name)
    os.remove("becomes-a-directory")
    os.mkdir("becomes-a-directory")
    put("becomes-a-directory/file")
    run("rm", "-r", "becomes-a-file")
    put("becomes-a-file")
    run("rm", "-r", "emptied/a")
    os.chmod("kept", 0o711)
    os.chmod("modes/644", 0o604)
    os.chown("owners/1-2", 3, 4)
    os.utime("times/0", ns=(OLD, OLD))
    os.setxattr("attributes/note", "user.third", b"3")
    os.removexattr("attributes/note", "user.second")
    with open("links/two", "ab") as file:
        file.write(b" and more")
    os.remove("names/four")
    os.link("fifo", "links/fifo")
    run("cp", "-a", "renamed", "new-name")
    run("rm", "-r", "renamed")
    with open("sparse", "r+b") as file:
        file.seek(2 << 20)
        file.write(b"later")
    run("rm", "-r", "/usr/share/doc")
    run("rm", "-r", "/usr/share/keyrings")
    os.remove("/etc/debian_version")
    os.chmod("/srv", 0o1777)
elif number == "3":
    os.chdir("/srv/all")
    put("gone", b"again")
    run("rm", "-r", "twice")
    os.mkdir("twice")
    run("rm", "-r", "remade")
    os.makedirs("/usr/share/doc/only")
    put("/usr/share/doc/only/this")
    os.remove("names/-rf")
    os.rename("names/*?[a]", "renamed by rename")
    if os.environ.get("DEVICES"):
        os.mknod("device", 0o20660, os.makedev(7, 99))
        finish("device", 0o660, (0, 6))
        os.mknod("block", 0o60600, os.makedev(259, 70000))
        finish("block")
