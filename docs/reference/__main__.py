"""``python -m docs.reference``: write the pages anew; the exit code is 1 where that cannot be done."""

import sys

from docs.reference.errors import MeaningsError
from docs.reference.pages import write
from docs.reference.said import UnreadableError
from docs.reference.scale import NoFigureError

if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{path}\n" for path in write())
    except (MeaningsError, NoFigureError, UnreadableError) as error:
        sys.exit(f"error: {error}")
