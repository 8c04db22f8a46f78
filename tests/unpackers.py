"""Run programs that unpack archives, each on many archives at once, with limits.

The programs in Java and Go follow relative names out of the directory, as careless programs do. No program follows an
absolute name, so that an archive cannot overwrite files of the system: ``tarfile`` has its filter, the others strip the
root. Relative names in the archives must stay below the test's own directory.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from programs import program

__all__ = ["UNPACKERS", "unpack"]

_LARGEST_FILE = 16 << 20
"""Bytes that a program may write to one file: a bomb that goes off ends there."""

_PYTHON_ZIP = """
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    for name in archive.namelist():
        try: archive.extract(name)
        except Exception as error: print(error)
"""
_PYTHON_TAR = """
import sys, tarfile
with tarfile.open(sys.argv[1], ignore_zeros=True) as archive:
    for member in archive:
        try: archive.extract(member, filter="tar", set_attrs=False)
        except Exception as error: print(error)
"""

_JAVA = """
import java.io.*;
import java.util.zip.*;

public class Unpack {
    public static void main(String[] args) throws IOException {
        for (int i = 0; i < args.length; i += 2) {
            try (ZipInputStream zip = new ZipInputStream(new FileInputStream(args[i]))) {
                for (ZipEntry entry; (entry = zip.getNextEntry()) != null; ) {
                    File file = new File(args[i + 1], entry.getName());
                    if (entry.isDirectory()) { file.mkdirs(); continue; }
                    file.getParentFile().mkdirs();
                    try (OutputStream out = new FileOutputStream(file)) { zip.transferTo(out); }
                }
            } catch (Exception error) { System.out.println(error); }
        }
    }
}
"""

_GO = """
package main

import ("archive/tar"; "archive/zip"; "compress/gzip"; "fmt"; "io"; "os"; "path/filepath"; "strings")

func write(directory, name string, from io.Reader) {
	path := filepath.Join(directory, name)
	if strings.HasSuffix(name, "/") { os.MkdirAll(path, 0o755); return }
	os.MkdirAll(filepath.Dir(path), 0o755)
	file, err := os.Create(path)
	if err != nil { fmt.Println(err); return }
	defer file.Close()
	if _, err = io.Copy(file, from); err != nil { fmt.Println(err) }
}

func untar(from io.Reader, directory string) {
	for archive := tar.NewReader(from); ; {
		header, err := archive.Next()
		if err != nil { fmt.Println(err); return }
		if header.Typeflag == tar.TypeReg { write(directory, header.Name, archive) }
	}
}

func main() {
	for i := 1; i < len(os.Args); i += 2 {
		if archive, err := zip.OpenReader(os.Args[i]); err == nil {
			for _, entry := range archive.File {
				if from, err := entry.Open(); err == nil { write(os.Args[i+1], entry.Name, from) }
			}
		}
		file, _ := os.Open(os.Args[i])
		if from, err := gzip.NewReader(file); err == nil { untar(from, os.Args[i+1]) } else {
			file.Seek(0, io.SeekStart)
			untar(file, os.Args[i+1])
		}
	}
}
"""


def _built(language: str, directory: Path) -> list[str]:
    """Compile the program in ``language`` into ``directory``; return its command."""
    if language == "java":
        (directory / "Unpack.java").write_text(_JAVA)
        subprocess.run(["javac", "Unpack.java"], cwd=directory, check=True)
        return ["java", "-XX:+UseSerialGC", "-Xmx256m", "-cp", str(directory), "Unpack"]
    (directory / "unpack.go").write_text(_GO)
    cache = {"GOCACHE": str(directory / "cache"), "GO111MODULE": "off"}
    subprocess.run(["go", "build", "unpack.go"], cwd=directory, env=os.environ | cache, check=True)
    return [str(directory / "unpack")]


UNPACKERS: dict[str, tuple[str, list[str]]] = {
    "unzip": ("unzip", ["unzip", "-o", "-q", "-P", "x"]),
    "7z": ("7z", ["7z", "x", "-y", "-px", "-bd"]),
    "bsdtar": ("bsdtar", ["bsdtar", "-xf"]),
    "bsdtar from a pipe": ("bsdtar", ["sh", "-c", 'cat "$1" | bsdtar -xf -', "sh"]),
    "tar": ("tar", ["tar", "-xf"]),
    "tar, zeros ignored": ("tar", ["tar", "--ignore-zeros", "-xf"]),
    "tar -z": ("tar", ["tar", "-xzf"]),
    "zipfile": (sys.executable, [sys.executable, "-c", _PYTHON_ZIP]),
    "tarfile": (sys.executable, [sys.executable, "-c", _PYTHON_TAR]),
    "java": ("javac", []),
    "go": ("go", []),
}
"""The program that each needs, and its command, to which the archive is added; it unpacks where it runs."""


def unpack(unpacker: str, archives: Iterable[tuple[Path, Path]], scratch: Path) -> None:
    """Unpack each archive into its directory, which must exist. Errors of the program are ignored.

    ``scratch`` is where a program is compiled, if it has to be.
    """
    needed, command = UNPACKERS[unpacker]
    program(needed)
    if command:
        for archive, directory in archives:
            _run([*command, str(archive)], directory)
    else:
        paths = [str(path) for pair in archives for path in pair]
        _run([*_built(unpacker, scratch), *paths], scratch)


def _run(command: list[str], directory: Path) -> None:
    """Run ``command`` with limits on time and file size, and no input."""
    bounded = ["prlimit", f"--fsize={_LARGEST_FILE}", "--core=0", "timeout", "60", *command]
    subprocess.run(
        bounded,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
