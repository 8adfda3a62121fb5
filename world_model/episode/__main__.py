"""``python -m world_model.episode DIR`` lists and checks recordings."""

import sys

from world_model.episode import main

if __name__ == "__main__":
    sys.exit(main())
