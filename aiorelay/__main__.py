import sys

from aiorelay.cli import main

if __name__ == "__main__":
    sys.exit(main())
