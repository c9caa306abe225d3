"""`python -m openxlstm` is the same as `openxlstm`."""

import sys

from openxlstm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
