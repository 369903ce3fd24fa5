"""Amazon S3 and compatible services: boto3 for multipart uploads and odd keys; obstore for the rest (``storage.objects``).

Credentials and endpoint are those of the AWS SDK (``storage.s3_access``). If it finds no credentials, requests are not signed, which
public buckets accept.

Every part of an upload is sent with its CRC-32, which S3 verifies, so a damaged part is never stored. This takes less than half the CPU
time of the SDK's defaults, which hash every byte for the signature, and of obstore's own multipart uploads.
"""

import base64
import re
import zlib
from collections.abc import Iterator, Mapping
from hashlib import md5
from typing import Any

from cloud_train.errors import StoreError, UsageError
from cloud_train.storage.base import AccessDeniedError, CredentialsEndedError, Multipart, ObjectInfo, TransientStoreError, UploadGoneError
from cloud_train.storage.http_errors import BAD_CERTIFICATE
from cloud_train.storage.objects import SHA256, ObjectStorage
from cloud_train.storage.s3_access import CREDENTIAL_PROBLEMS, LOG_IN, Sdk, obstore_client, settings_in_environment

_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")  # old buckets may have names that are no longer allowed


_ANSWERED_IN_WORDS = ("list_objects_v2", "create_multipart_upload", "complete_multipart_upload")


class S3Store(ObjectStorage):
    """The objects under ``s3://bucket/prefix``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """``prefix`` is empty or ends with '/'. Nothing is sent to the bucket yet.

        Raises UsageError for an invalid bucket name, and AccessDeniedError if the SDK's settings are invalid.
        """
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"invalid bucket name {bucket!r}: use 3 to 63 characters of a-z, 0-9, '-' and '.'")
        self.bucket = bucket
        self._sdk = Sdk()
        settings = settings_in_environment() or self._sdk.settings()
        self._signed = not settings["skip_signature"]
        self._region: str = settings["region"]
        super().__init__(
            f"s3://{bucket}/{prefix}".rstrip("/"),
            obstore_client(bucket, settings, self._sdk.certificates()),
            prefix,
            explain=self._explain_s3,
            listing=self._list_with_sdk,
        )

    def permission(self, action: str) -> str:
        """The IAM action, and the resource on which it is needed."""
        bucket = f"arn:aws:s3:::{self.bucket}"
        objects = f"{bucket}/{self.url.removeprefix(f's3://{self.bucket}').lstrip('/')}".rstrip("/") + "/*"
        return {
            "read": f"s3:GetObject on {objects} (and s3:ListBucket on {bucket}, without which a missing object is refused too)",
            "write": f"s3:PutObject on {objects}",
            "list": f"s3:ListBucket on {bucket}",
            "delete": f"s3:DeleteObject on {objects}",
            "abort": f"s3:AbortMultipartUpload on {objects}",
        }.get(action, "")

    def multipart(self) -> Multipart:
        """S3's multipart uploads."""
        return _Parts(self, self._sdk.client)

    def call(self, key: str, action: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The result of an SDK call on this bucket; raises StoreError."""
        client = self._sdk.client
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(client, operation)(Bucket=self.bucket, **parameters)
        except (BotoCoreError, ClientError, RecursionError, ValueError) as error:
            raise self.failure(action, key, *_answer_in(error)) from error
        if operation in _ANSWERED_IN_WORDS and answer.keys() <= {"ResponseMetadata", "RequestCharged"}:
            # The SDK treats a response that ended before its first byte as an empty one, which would make a bucket look empty.
            raise self.failure(action, key, 0, "", "the response ended early")
        return answer

    def _list_with_sdk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        parameters = {"Prefix": prefix, **({"StartAfter": after} if after else {})}
        while True:
            page = self.call("", "list", "list_objects_v2", **parameters)
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], item["LastModified"].timestamp(), item["ETag"])
            if not page.get("IsTruncated"):
                return
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    def _explain_s3(self, status: int, code: str, message: str) -> StoreError | None:
        """S3's codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html."""
        explained: StoreError | None = None
        said = f"{code or status}: {message}" if message else str(code or status)
        if code == "NoSuchBucket":
            hint = f"create it (aws s3 mb s3://{self.bucket}), or correct the store's URL"
            explained = StoreError(f"the bucket {self.bucket!r} does not exist", hint=hint)
        elif status in _REDIRECTS or code in _REGION_CODES:
            explained = self._elsewhere(message)
        elif code in _GONE_CODES:
            explained = UploadGoneError("the store no longer knows the upload")
        elif code in _MOMENTARY_CODES:
            explained = TransientStoreError(said, hint="retry in a moment")
        elif code in _REFUSALS:
            words, hint = _REFUSALS[code]
            kind = CredentialsEndedError if code in _ENDED else AccessDeniedError
            explained = kind(f"{words} ({said})", hint=hint)
        elif status == _FORBIDDEN and not self._signed:
            explained = AccessDeniedError(f"access denied, and no AWS credentials were found ({said})", hint=LOG_IN)
        return explained

    def _renew_credentials(self) -> bool:
        if (renewed := self._sdk.renewed()) is None:
            return False
        self._sdk, self._client = renewed, obstore_client(self.bucket, renewed.settings(), renewed.certificates())
        return True

    def _elsewhere(self, message: str) -> StoreError:
        expected = re.search(r"expecting '([\w-]+)'", message)
        region = expected[1] if expected else self._region_of_bucket()
        where = f"is in the region {region}, not in {self._region}" if region else f"is not in the region {self._region}"
        find = f"find the region with `aws s3api get-bucket-location --bucket {self.bucket}`, and set AWS_REGION to it"
        return StoreError(f"the bucket {self.bucket!r} {where}", hint=f"set AWS_REGION={region}" if region else find)

    def _region_of_bucket(self) -> str:
        """The bucket's region from a header of the response, which even errors have; empty without one."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._sdk.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            answer = error.response
        except (BotoCoreError, RecursionError):
            return ""
        return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


_FORBIDDEN = 403
_REDIRECTS = (301, 307, 308)
_REGION_CODES = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_GONE_CODES = ("NoSuchUpload", "InvalidPart")
_MOMENTARY_CODES = (
    "ConditionalRequestConflict",  # another client is writing this key right now; the next attempt finds out which one won
    "OperationAborted",
    "RequestTimeout",
    *(
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "MetadataRetrievalError",
        "ReadTimeoutError",
    ),  # raised by the SDK
    *("BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),  # the data was damaged in transit
)
_RENEW = "renew them (`aws sso login`, or new values of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN), and retry"
_ENDED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId")
"""Error codes for credentials that may have been valid before."""
_WHO = "`aws sts get-caller-identity` shows which credentials the AWS SDK finds"
_REFUSALS = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), ("the credentials have expired", _RENEW)),
    "InvalidToken": ("the session token is not valid", _RENEW),
    "RequestTimeTooSkewed": (
        "this machine's clock is off",
        "set the clock: S3 refuses requests whose time differs by more than 15 minutes",
    ),
    "InvalidAccessKeyId": ("AWS does not know this access key", _WHO),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", _WHO),
    "InvalidObjectState": ("the object is archived", "restore it first: aws s3api restore-object"),
    **CREDENTIAL_PROBLEMS,
}
"""Error codes of permanent refusals → what they mean, and the next step."""


class _Parts:
    """Uploads in at most 10,000 parts of at least 8 MiB. A receipt is the part's ETag and, if the service returns it, its CRC-32."""

    in_order = False

    def __init__(self, store: S3Store, client: Any) -> None:
        self._store = store
        self._with_crc = client.meta.config.request_checksum_calculation != "when_required"

    def part_bytes(self, size: int) -> int:
        return max(8 << 20, -(-size // 10_000))

    def begin(self, key: str, size: int, sha256: str) -> str:
        checksums = {"ChecksumAlgorithm": "CRC32"} if self._with_crc else {}
        return str(self._call(key, "write", "create_multipart_upload", Metadata={SHA256: sha256}, **checksums)["UploadId"])

    def send(self, key: str, token: str, number: int, offset: int, data: bytes) -> str:
        if self._with_crc:
            check = {"ChecksumCRC32": _crc32(data)}
        else:
            check = {"ContentMD5": base64.b64encode(md5(data, usedforsecurity=False).digest()).decode()}
        return _receipt(self._call(key, "write", "upload_part", UploadId=token, PartNumber=number + 1, Body=data, **check))

    def finish(self, key: str, token: str, receipts: Mapping[int, str]) -> None:
        parts = []
        for number, receipt in sorted(receipts.items()):
            etag, _, crc = receipt.partition(" ")
            parts.append({"PartNumber": number + 1, "ETag": etag, **({"ChecksumCRC32": crc} if crc else {})})
        self._call(key, "write", "complete_multipart_upload", UploadId=token, MultipartUpload={"Parts": parts})

    def abort(self, key: str, token: str) -> None:
        try:
            self._call(key, "abort", "abort_multipart_upload", UploadId=token)
        except UploadGoneError:
            return

    def _call(self, key: str, action: str, operation: str, **parameters: Any) -> dict[str, Any]:
        return self._store.call(key, action, operation, Key=self._store.full_key(key), **parameters)


def _receipt(part: Mapping[str, Any]) -> str:
    return f"{part['ETag']} {part.get('ChecksumCRC32', '')}".rstrip()


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _answer_in(error: Any) -> tuple[int, str, str]:
    """HTTP status, code and message of an SDK exception; the status is 0 without a response."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError, SSLError

    if isinstance(error, RecursionError) or isinstance(getattr(error, "kwargs", {}).get("error"), RecursionError):
        return _REDIRECTS[0], "PermanentRedirect", ""  # a redirect without a region: the SDK looks it up, and is redirected again
    if isinstance(error, ClientError):
        fields = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status, str(fields.get("Code", "")), str(fields.get("Message", ""))
    if isinstance(error, SSLError):
        return 0, BAD_CERTIFICATE, str(error)
    # The SDK raises ValueError for a response with a damaged number or time.
    momentary = isinstance(error, (ConnectionError, HTTPClientError, IncompleteReadError, ValueError))
    return 0 if momentary else 400, type(error).__name__, re.sub(r'\?[^\s"]*', "", str(error))
