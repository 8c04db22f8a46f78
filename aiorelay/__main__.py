import sys

from aiorelay.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
