import sys

from modeflow.cli import main

sys.exit(main())
