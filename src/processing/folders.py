"""Where plug-ins are imported from: their user's folders, and not the server's."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

import ring
from processing.contract import Unusable

#: The rooms that a worker itself consists of: a module of that name in a user's folder would never be seen.
RESERVED: Final = ("frames", "ring", "processing")

#: The server's own folder, which stands first on the path of its children.
OWN: Final = Path(ring.__file__).resolve().parent


def put_users_first() -> None:
    """Look for modules in the working directory and the user's PYTHONPATH, then among those that are installed.

    The server's own modules are called `app`, `hub`, `rate` and the like, and so may a user's. Who works in the
    server's folder finds plug-ins there too, last of all.

    Raises:
        Unusable: a folder holds a module of a reserved name.
    """
    python_path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if python_path and _is_own(python_path[0]):
        del python_path[0]  # `children` has put it there
    folders = [*_working_directory(), *python_path]
    for folder in folders:
        if not _is_own(folder):
            _refuse_reserved(folder)
    users = [folder for folder in folders if not _is_own(folder)]
    installed = [folder for folder in sys.path if folder not in users and not _is_own(folder)]
    own = [str(OWN)] if len(users) < len(folders) else []
    sys.path[:] = [*users, *installed, *own]


def _working_directory() -> list[str]:
    try:
        return [os.getcwd()]
    except FileNotFoundError:
        return []  # it has been deleted


def _is_own(folder: str) -> bool:
    return Path(folder).resolve() == OWN


def _refuse_reserved(folder: str) -> None:
    for name in RESERVED:
        spec = PathFinder.find_spec(name, [folder])
        # A mere folder is a package as well, but more likely one of pictures.
        if spec is not None and (spec.loader is not None or any((Path(folder) / name).glob("*.py"))):
            raise Unusable(f"{folder} holds a module {name}, a name that the server needs for itself")
