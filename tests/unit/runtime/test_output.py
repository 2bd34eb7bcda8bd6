"""What is printed is safe whatever is in it, and output that cannot be written is one line."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from fastlt.runtime.log import configure_logging, log
from fastlt.runtime.output import OUTPUT, Terminal, printable, writing_output

HOME = Path(__file__).parents[3]
HOSTILE = "a\x1b[31mb\x9b1m\x07\x7f\x85\udcff\u202ec"
SAFE = r"a\x1b[31mb\x9b1m\x07\x7f\x85\udcff\u202ec"


def test_control_characters_are_shown_as_escapes_and_letters_as_they_are() -> None:
    assert printable(HOSTILE) == SAFE
    assert printable("Füchse\t狐\n🦊") == "Füchse\t狐\n🦊"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = printable("--out: got " + "x" * 5_000_000 + ", a file")
    assert text.startswith("--out: got xxx")
    assert text.endswith("xxx, a file")
    assert len(text) < 5000


def test_messages_and_tables_are_printed_safely_and_without_markup() -> None:
    file = io.StringIO()
    console = Terminal(file=file, width=200, force_terminal=True, color_system=None)
    configure_logging(console)
    log.info("skipped %s", f"{HOSTILE}\nforged line")
    table = Table("class [bold]", title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row("[/] :cat: [red]")
    console.print(table)
    text = file.getvalue()
    assert f"skipped {SAFE}\\nforged line\n" in text
    assert text.count(SAFE) == 3
    assert "[/] :cat: [red]" in text
    assert "class [bold]" in text
    assert not set(text) & set("\x1b\x9b\x07\x7f\x85\udcff\u202e")


def test_only_an_error_without_a_file_is_of_the_output() -> None:
    with pytest.raises(OSError, match=OUTPUT), writing_output():
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(FileNotFoundError, match=r"'config\.json'"), writing_output():
        raise FileNotFoundError(errno.ENOENT, "absent", "config.json")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["train", "--help"]])
def test_output_that_nobody_takes_is_no_traceback(arguments: list[str], unbuffered: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "fastlt", *arguments]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (141, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("fastlt: standard output: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_output_gives_its_number_to_no_file(tmp_path: Path) -> None:
    program = (
        "from fastlt import cli\n"
        "def work(argv):\n"
        "    with open('file', 'w') as file:\n"
        "        file.write(str(file.fileno() > 2))\n"
        "        print('for nobody')\n"
        "cli.dispatch = work\ncli.main()\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = f"exec {sys.executable} program.py <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, env=os.environ | {"PYTHONPATH": str(HOME)})
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "True"


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(HOME), "PYTHONIOENCODING": "ascii"}
    program = (
        "from fastlt import cli\nfrom fastlt.commands.common import say\n"
        "cli.dispatch = lambda argv: say('狐')\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert done.stdout == rb"\u72d0" + b"\n"


def test_a_nul_character_in_a_path_is_shown() -> None:
    program = (
        "from pathlib import Path\nfrom fastlt import cli\n"
        "cli.dispatch = lambda argv: Path('images/a\\0b.png').read_bytes()\ncli.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(r"fastlt: images/a\x00b.png: got a NUL character")
