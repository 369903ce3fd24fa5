"""What buckets, storage accounts and containers may be called: their names become hosts, or parts of one."""

BUCKETS = {
    "s3": (r"(?!(?:[0-9]+\.){3}[0-9]+$)[a-z0-9](?:[a-z0-9-]|\.(?![.-])){1,61}[a-z0-9]", "3 to 63 of a-z, 0-9, '-' and '.'"),
    "gs": (
        r"(?!(?:[0-9]+\.){3}[0-9]+$)[a-z0-9](?:[a-z0-9_-]|\.(?![.-])){1,220}[a-z0-9]",
        "3 to 63 (with dots 222) of a-z, 0-9, '-', '_' and '.'",
    ),
}
"""Scheme → form of a bucket's name, and the form in words
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, https://cloud.google.com/storage/docs/buckets#naming).
"""
ACCOUNT = r"[a-z0-9]{3,24}"
CONTAINER = r"\$(?:root|web|logs)|(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*"
"""https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata"""
