"""A small in-memory S3 server, fast enough that the client is the bottleneck: ``python -m benchmarks._s3_server`` prints its address.

It supports the requests of transfers (objects, ranges, listings, multipart uploads) and verifies neither signatures nor checksums. An
ETag is the MD5 of an object that arrived in one piece of at most 1 MiB, as on S3; larger objects get a random one in the form of S3's
multipart ETags, because an MD5 costs as much as sending them. ``GET /-/count`` returns the number of requests since the last such call.
"""

import hashlib
import re
import secrets
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_ISO_DATE = "2026-01-01T00:00:00.000Z"
_MD5_BYTES = 1 << 20
_PAGE = 1000


@dataclass(frozen=True)
class _Object:
    data: bytearray
    etag: str
    metadata: tuple[tuple[str, str], ...]


@dataclass
class _State:
    objects: dict[str, dict[str, _Object]] = field(default_factory=dict)
    """Bucket → key → object."""
    uploads: dict[str, tuple[tuple[tuple[str, str], ...], dict[int, bytearray]]] = field(default_factory=dict)
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytearray

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in self.headers.items() if name.startswith("x-amz-meta-"))


@dataclass(frozen=True)
class _Answer:
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()
    body: "bytes | memoryview" = b""


class _Connection(socketserver.BaseRequestHandler):
    request: socket.socket
    state: _State  # shared by all connections

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        try:
            while (request := self._receive()) is not None:
                answer = _answer(self.state, request)
                head = f"HTTP/1.1 {answer.status}\r\nContent-Length: {len(answer.body)}\r\nx-amz-request-id: 1\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers if name != "Content-Length")
                if request.method == "HEAD":
                    length = dict(answer.headers).get("Content-Length", "0")
                    self.request.sendall(f"{head}\r\n".replace("Content-Length: 0", f"Content-Length: {length}", 1).encode())
                elif len(answer.body) < 1 << 16:
                    self.request.sendall(f"{head}\r\n".encode() + bytes(answer.body))
                else:
                    self.request.sendall(f"{head}\r\n".encode())
                    self.request.sendall(answer.body)
        except ConnectionError:
            return

    def _receive(self) -> _Request | None:
        while b"\r\n\r\n" not in self._buffer:
            piece = self.request.recv(1 << 16)
            if not piece:
                return None
            self._buffer += piece
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("expect", "").lower() == "100-continue":
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray(int(headers.get("content-length", 0)))
        body[: len(rest)] = rest[: len(body)]
        self._buffer = rest[len(body) :]
        view, arrived = memoryview(body), min(len(rest), len(body))
        while arrived < len(body):
            count = self.request.recv_into(view[arrived:])
            if not count:
                return None
            arrived += count
        path, _, query = target.partition("?")
        bucket, _, key = unquote(path[1:]).partition("/")
        parameters = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        if headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            body = _unframed(body)
        return _Request(method, bucket, key, parameters, headers, body)


def _unframed(body: bytearray) -> bytearray:
    """The content of a body in the AWS SDKs' chunked encoding: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html"""
    data, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            return data
        data += memoryview(body)[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


def _answer(state: _State, request: _Request) -> _Answer:
    if request.bucket == "-":  # the benchmark asks for the count
        number, state.requests = state.requests, 0
        return _Answer(body=str(number).encode())
    with state.lock:
        state.requests += 1
    if not request.key:
        if request.method == "PUT":
            state.objects[request.bucket] = {}
        if request.bucket not in state.objects:
            return _missing("NoSuchBucket")
        return _listing(state.objects[request.bucket], request.query) if request.method == "GET" else _Answer()
    if "uploads" in request.query or "uploadId" in request.query:
        return _of_parts(state, request)
    return _of_object(state.objects[request.bucket], request)


def _of_object(objects: dict[str, _Object], request: _Request) -> _Answer:
    if request.method == "PUT":
        digest = hashlib.md5(request.body).hexdigest() if len(request.body) <= _MD5_BYTES else f"{secrets.token_hex(16)}-1"
        objects[request.key] = _Object(request.body, f'"{digest}"', request.metadata)
        return _Answer(headers=(("ETag", f'"{digest}"'),))
    if request.method == "DELETE":
        objects.pop(request.key, None)
        return _Answer("204 No Content")
    return _read(objects.get(request.key), request)


def _of_parts(state: _State, request: _Request) -> _Answer:
    if request.method == "POST" and "uploads" in request.query:
        token = secrets.token_hex(16)
        state.uploads[token] = (request.metadata, {})
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{token}</UploadId>")
    token = request.query["uploadId"]
    if token not in state.uploads:
        return _missing("NoSuchUpload")
    metadata, parts = state.uploads[token]
    if request.method == "PUT":
        parts[int(request.query["partNumber"])] = request.body
        return _Answer(headers=(("ETag", f'"{secrets.token_hex(16)}"'),))
    if request.method == "POST":
        etag = f'"{secrets.token_hex(16)}-{len(parts)}"'
        data = bytearray().join(parts[number] for number in sorted(parts))
        state.objects[request.bucket][request.key] = _Object(data, etag, metadata)
        del state.uploads[token]
        return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(etag)}</ETag><Key>{escape(request.key)}</Key>")
    del state.uploads[token]
    return _Answer("204 No Content")


def _read(found: _Object | None, request: _Request) -> _Answer:
    if found is None:
        return _missing("NoSuchKey")
    if request.headers.get("if-match", found.etag) != found.etag:
        return _Answer("412 Precondition Failed")
    headers = (("ETag", found.etag), ("Last-Modified", _DATE), ("Accept-Ranges", "bytes"), *found.metadata)
    if request.method == "HEAD":
        return _Answer(headers=(*headers, ("Content-Length", str(len(found.data)))))
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        begin, end = int(wanted[1]), min(len(found.data), int(wanted[2] or len(found.data)) + 1)
        content_range = f"bytes {begin}-{end - 1}/{len(found.data)}"
        return _Answer("206 Partial Content", (*headers, ("Content-Range", content_range)), memoryview(found.data)[begin:end])
    return _Answer(headers=headers, body=memoryview(found.data))


def _listing(objects: dict[str, _Object], query: dict[str, str]) -> _Answer:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
    keys = [key for key in sorted(objects) if key.startswith(prefix) and key > after]
    show = quote if query.get("encoding-type") == "url" else escape
    folders = {prefix + key[len(prefix) :].split(delimiter)[0] + delimiter for key in keys if delimiter and delimiter in key[len(prefix) :]}
    plain = [key for key in keys if not delimiter or delimiter not in key[len(prefix) :]]
    page = plain[:_PAGE]
    more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(plain) > _PAGE else ""
    contents = "".join(
        f"<Contents><Key>{show(key)}</Key><LastModified>{_ISO_DATE}</LastModified><ETag>{escape(objects[key].etag)}</ETag>"
        f"<Size>{len(objects[key].data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in page
    )
    contents += "".join(f"<CommonPrefixes><Prefix>{show(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders))
    facts = f"<Prefix>{show(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
    return _xml("ListBucketResult", facts + contents)


def _xml(name: str, content: str, status: str = "200 OK") -> _Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return _Answer(status, (("Content-Type", "application/xml"),), body.encode())


def _missing(code: str) -> _Answer:
    return _xml("Error", f"<Code>{code}</Code><Message>{code}</Message>", "404 Not Found")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    """Serve on a free port of the loopback address until the process is ended."""
    _Connection.state = _State()
    with _Server(("127.0.0.1", 0), _Connection) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
