import sys

from aiorelay.cli import main

sys.exit(main())
