"""Prints the tree of files it runs on, or a part: a line for each name, with all that an image keeps of a file."""
import hashlib
import os
import stat
import sys


def escaped(name):
    return "".join(chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in name)


# What an engine has mounted, such as /proc and its /etc/hosts, is not the image's.
mounted = {line.split()[4].encode() for line in open("/proc/self/mountinfo")} - {b"/"}
first = {}


def line(path, meta):
    kind, words = stat.S_IFMT(meta.st_mode), []
    if stat.S_ISREG(kind):
        content = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
        words += [f"size={meta.st_size}", f"sha256={content.hexdigest()[:32]}"]
    elif stat.S_ISLNK(kind):
        words.append(f"to={escaped(os.readlink(path))}")
    elif stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
        words.append(f"device={os.major(meta.st_rdev)}:{os.minor(meta.st_rdev)}")
    if not stat.S_ISDIR(kind):
        same = first.setdefault((meta.st_dev, meta.st_ino), path)
        words += [f"names={meta.st_nlink}", *([f"same={escaped(same)}"] if same != path else [])]
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        words.append(f"{name}={escaped(value) or 'empty'}")
    words[:0] = [escaped(path), f"{meta.st_mode:o}", f"{meta.st_uid}:{meta.st_gid}", f"time={meta.st_mtime_ns}"]
    return " ".join(words)


def visit(path):
    if path in mounted:
        return
    meta = os.lstat(path)
    print(line(path, meta))
    if stat.S_ISDIR(meta.st_mode):
        for name in sorted(os.listdir(path)):
            visit(os.path.join(path, name))


visit(os.fsencode(sys.argv[1]) if sys.argv[1:] else b"/")
