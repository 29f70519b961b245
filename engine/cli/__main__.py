"""``python -m engine.cli``: the command `identiface` where its script is not on the path."""

import sys

from engine.cli import main

sys.exit(main())
