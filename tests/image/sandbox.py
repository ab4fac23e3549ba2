"""A root file system in which commands run as in a container, without a container engine: namespaces, mounts and chroot.

What the base image brings comes from this machine: its /usr, not writable, and a copy of a Python without any packages but
pip at /usr/local. Everything else is empty, so a command can only use what the Dockerfile has put there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

HOW_TO_GET_IT = (
    "needs Linux, and either root that may mount (in a container: the capability SYS_ADMIN) or user namespaces with a range of "
    "ids (package uidmap, /etc/subuid): the steps of the Dockerfile run in namespaces of their own"
)

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What Python's official image has, in another order."""

STEP_SECONDS = 300.0
"""How long one RUN may take: it may have to download everything."""

ETC = ("passwd", "group", "hosts", "resolv.conf", "nsswitch.conf", "login.defs", "ld.so.conf", "ld.so.conf.d")
"""What of this machine's /etc the base image would have as well; a RUN may change it."""

ETC_MOUNTED = ("alternatives", "ssl")

# $1 is the root, $2 its /usr/local; then come places to mount: how:where from:where to. After -- the command.
ENTER = r"""
set -e
root=$1 local=$2; shift 2
mount --bind "$root" "$root"
mount --bind /usr "$root/usr"; mount -o remount,bind,ro "$root/usr"
mount --bind "$local" "$root/usr/local"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    IFS=: read -r how from to <<END
$1
END
    shift
    case $how in
        frozen) mount -o remount,bind,ro "$root/usr/local"; mount -o remount,bind,ro "$root" ;;
        tmpfs) mount -t tmpfs -o mode=1777 tmpfs "$root$to" ;;
        ro) mount --bind "$from" "$root$to"; mount -o remount,bind,ro "$root$to" ;;
        rw) mount --bind "$from" "$root$to" ;;
    esac
done
shift
exec chroot "$root" "$@"
"""


def privileges() -> list[str]:
    """What a command begins with that may mount."""
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    for way in (alone, [*alone, "--user", "--map-root-user", "--map-auto"]):
        if shutil.which("unshare") and subprocess.run([*way, "true"], capture_output=True).returncode == 0:
            return way
    unavailable(HOW_TO_GET_IT)


def unavailable(reason: str) -> NoReturn:
    """Skips the test, or fails it under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """`how` is ro or rw, for a place of this machine, or tmpfs."""

    how: str
    target: str
    source: Path | None = None

    def __str__(self) -> str:
        return f"{self.how}:{self.source or ''}:{self.target}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As whom, where and with what a command runs. `frozen`: nothing but `mounts` can be written."""

    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: str = "0:0"
    mounts: Sequence[Mount] = ()
    frozen: bool = False


@dataclass(kw_only=True)
class Sandbox:
    """A root file system at `directory / "root"`. Its files belong to root, or to who plays root."""

    directory: Path
    python: Path
    """Prefix of the Python that the base image would bring."""
    way: list[str] = field(default_factory=privileges)

    def __post_init__(self) -> None:
        for name in ("dev", "etc", "opt", "proc", "root", "run", "tmp", "usr", "var/lib", "var/tmp"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)
        for name in ("bin", "lib", "lib64", "sbin"):
            if Path("/", name).is_dir():
                (self.root / name).symlink_to(f"usr/{name}")
        for name in filter(lambda name: Path("/etc", name).exists(), ETC):
            _copy(Path("/etc", name).resolve(), self.root / "etc" / name)
        _copy_python(self.python, self.local)
        self.check("ldconfig")

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def local(self) -> Path:
        return self.directory / "local"

    def inside(self, path: str) -> Path:
        """Where on this machine an absolute path of the sandbox is."""
        if path.startswith("/usr/local"):
            return self.local / path.removeprefix("/usr/local").lstrip("/")
        return self.root / path[1:]

    def command(self, command: Sequence[str], settings: Settings) -> list[str]:
        """The command line that runs `command` inside, to be started from here."""
        base = [
            Mount(how="ro", source=Path("/etc", name), target=f"/etc/{name}")
            for name in ETC_MOUNTED
            if Path("/etc", name).exists()
        ]
        for mount in (*base, *settings.mounts):
            self._make(mount)
        freeze = [Mount(how="frozen", target="")] if settings.frozen else []
        enter = ["sh", "-c", ENTER, "enter", self.root, self.local, *base, *freeze, *settings.mounts, "--"]
        variables = [f"{name}={value}" for name, value in settings.environment.items()]
        become = ["env", "--ignore-environment", f"--chdir={settings.workdir}", *variables]
        return [*self.way, *map(str, enter), *_become(settings.user), *become, *command]

    def run(self, *command: str, settings: Settings | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        line = self.command(command, settings or Settings())
        return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STEP_SECONDS)

    def check(self, *command: str, settings: Settings | None = None) -> None:
        """As `run`, of what must succeed."""
        done = self.run(*command, settings=settings)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def remove(self) -> None:
        """All of it: files of other users can only be removed from within."""
        subprocess.run([*self.way, "rm", "-rf", "--one-file-system", str(self.directory)], check=True)

    def _make(self, mount: Mount) -> None:
        """The place to mount on, a file or a directory like what is mounted there."""
        place = self.inside(mount.target)
        if mount.source is not None and mount.source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)


def _become(user: str) -> list[str]:
    """What lets a command run as `uid:gid`; others than root have no capability and gain none, as a hardened container has it."""
    uid, _, gid = user.partition(":")
    less = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if uid != "0" else []
    return ["setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", *less]


def index_settings() -> tuple[dict[str, str], list[Mount]]:
    """How pip reaches its index on this machine: environment variables, and the places that they name."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True, stderr=subprocess.DEVNULL)
    found = re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    environment = {f"PIP_{name.upper().replace('-', '_')}": value.replace("\\n", " ") for name, value in found}
    names = re.compile(r"PIP_(?!REQUIRE_VIRTUALENV)\w+|(?i:https?_proxy|no_proxy)|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE")
    environment |= {name: value for name, value in os.environ.items() if names.fullmatch(name)}
    words = [word for value in environment.values() for word in value.split()]
    # The files of an index that is a directory lie beside it.
    places = {Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word) for word in words}
    outside = sorted(place for place in places if place.is_absolute() and place.exists() and not place.is_relative_to("/etc/ssl"))
    return environment, [Mount(how="ro", source=place, target=str(place)) for place in outside]


def _copy_python(prefix: Path, target: Path) -> None:
    """What the base image has at /usr/local: no packages but pip, and no tests."""
    library = next(prefix.glob("lib/python3.*/os.py")).parent

    def left_out(directory: str, names: list[str]) -> set[str]:
        dropped = {name for name in names if name.endswith(".a")}
        if Path(directory) == prefix / "lib":
            dropped |= {name for name in names if not name.startswith(("python3", "libpython3"))}
        if Path(directory) == library:
            dropped |= {"test", "idlelib", "tkinter"}
        if Path(directory) in (library / "site-packages", prefix / "bin"):
            dropped |= {name for name in names if not name.startswith(("pip", "python"))}
        return dropped

    for name in ("bin", "lib", "include"):
        shutil.copytree(prefix / name, target / name, symlinks=True, ignore=left_out)
    if not (target / "bin" / "python").exists():
        (target / "bin" / "python").symlink_to("python3")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
