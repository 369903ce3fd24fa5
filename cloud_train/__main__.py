"""``python -m cloud_train``: the same as the command ``cloud-train``."""

from cloud_train.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
