"""``python -m cloud_train``: the same as the command ``cloud-train``."""

import sys

from cloud_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
