"""A Google Cloud Storage server for the tests: gcp-storage-emulator, with what it lacks added by an HTTP server in front of it.

Run as ``python -m tests.gcs_server ADDRESS``: it prints its URL. google-cloud-storage (JSON API) and obstore (XML API) work with it as they
are. The emulator keeps buckets and objects and checks checksums. In front of it are added: preconditions on generations, ETags and
generations in the answers, pages, 416 for a range beyond the end, the bodies of errors, what a resumable session answers before its first
and after its last byte, and, of the XML API, HEAD, DELETE, lists, user metadata and multipart uploads. One lock makes every request atomic.

What neither enforces: credentials and permissions, quotas, names of buckets, customer keys, holds; old generations are not kept.

JSON API: https://cloud.google.com/storage/docs/json_api/v1 — XML API: https://cloud.google.com/storage/docs/xml-api/reference-methods
"""

import hashlib
import json
import re
import secrets
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import google_crc32c
from gcp_storage_emulator.server import create_server
from gcp_storage_emulator.storage import Storage

from tests.gcs_emulator import JSON, XML, Answer, Emulator, RequestError, Resource, check


@dataclass
class Session:
    """An upload in parts: a resumable session of the JSON API, or a multipart upload of the XML API."""

    bucket: str
    name: str
    conditions: Mapping[str, str]
    metadata: Resource
    received: int = 0
    parts: dict[int, bytes] = field(default_factory=dict)
    done: Resource | None = None


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def conditions(self) -> dict[str, str]:
        """The preconditions on the object's generation, under their names in the JSON API."""
        xml = {"x-goog-if-generation-match": "ifGenerationMatch"}
        found = {name: self.headers[header] for header, name in xml.items() if header in self.headers}
        return found | {name: self.query[name] for name in ("ifGenerationMatch", "ifGenerationNotMatch") if name in self.query}


class Service:
    """Answers requests of both APIs, one at a time."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        json_api = request.path.startswith(("/storage/v1", "/upload/storage/v1", "/download/storage/v1", "/resumable", "/batch"))
        with self._lock:
            try:
                return self._json(request) if json_api else self._xml(request)
            except RequestError as failure:
                if json_api:
                    reasons = [{"domain": "global", "reason": failure.code, "message": failure.message}]
                    error = {"code": failure.status, "message": failure.message, "errors": reasons}
                    return Answer(failure.status, JSON, json.dumps({"error": error}).encode())
                inner = f"<Code>{failure.code}</Code><Message>{escape(failure.message)}</Message>"
                return Answer(failure.status, XML, f"<?xml version='1.0' encoding='UTF-8'?><Error>{inner}</Error>".encode())

    def _json(self, request: Request) -> Answer:
        place = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?", request.path)
        if place is None:
            answer = self._emulator.forward(request.method, f"{request.path}?{urlencode(request.query)}", request.body, dict(JSON))
            if answer.status == 404:
                raise RequestError(404, "notFound", "The specified bucket does not exist.")
            return Answer(answer.status, JSON, answer.body)
        kind, bucket, name = place[1], place[2], unquote(place[3]) if place[3] else ""
        if kind == "/upload":
            return self._upload(request, bucket)
        if not name:
            return self._json_list(request, bucket)
        if request.method == "DELETE":
            self._emulator.get(bucket, name, request.conditions, request.query.get("generation"))
            self._emulator.delete(bucket, name)
            return Answer(204)
        if request.method != "GET":
            raise RequestError(501, "notImplemented", f"{request.method} {request.path}")
        if kind == "/download" or request.query.get("alt") == "media":
            return self._media(request, bucket, name)
        return _resource(self._emulator.get(bucket, name, request.conditions, request.query.get("generation")))

    def _json_list(self, request: Request, bucket: str) -> Answer:
        query = request.query
        found = self._emulator.list(bucket, query.get("prefix", ""))
        first, last = query.get("startOffset", ""), query.get("endOffset")
        found = [item for item in found if item["name"] >= first and (last is None or item["name"] < last)]
        items, prefixes, more = _page(found, query, query.get("pageToken", ""), int(query.get("maxResults", 1000)))
        listing = {"kind": "storage#objects", "items": items, "prefixes": prefixes} | ({"nextPageToken": more} if more else {})
        return Answer(200, JSON, json.dumps(listing).encode())

    def _upload(self, request: Request, bucket: str) -> Answer:
        if "upload_id" in request.query:
            return self._resume(request)
        metadata, data = _multipart_body(request) if request.query["uploadType"] == "multipart" else ({}, request.body)
        if request.query["uploadType"] == "resumable":
            metadata = json.loads(request.body or b"{}")
        name = request.query.get("name") or metadata["name"]
        self._check(bucket, name, request.conditions)
        if request.query["uploadType"] != "resumable":
            return _resource(self._emulator.write(bucket, name, data, metadata))
        self._emulator.require_bucket(bucket)
        upload = secrets.token_hex(16)
        self._sessions[upload] = Session(bucket, name, request.conditions, metadata)
        location = f"http://{request.headers['host']}{request.path}?uploadType=resumable&name={quote(name, safe='')}&upload_id={upload}"
        return Answer(200, {"Location": location, "X-GUploader-UploadID": upload})

    def _resume(self, request: Request) -> Answer:
        """One request to a resumable session: https://cloud.google.com/storage/docs/performing-resumable-uploads ."""
        session = self._session(request.query["upload_id"])
        if request.method == "DELETE":
            del self._sessions[request.query["upload_id"]]
            return Answer(499)
        if session.done is not None:
            return _resource(session.done)
        whole = f"bytes 0-{len(request.body) - 1}/{len(request.body)}" if request.body else "bytes */0"
        sent = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", whole))
        if sent is None:
            raise RequestError(400, "invalid", "The Content-Range cannot be read.")
        if sent[1] is not None:
            skip = session.received - int(sent[1])  # bytes that came before are not taken again
            if skip < 0:
                raise RequestError(503, "backendError", f"Bytes from {session.received} on are missing.")
            session.parts[len(session.parts)] = request.body[skip:]
            session.received += len(request.body[skip:])
        if "x-goog-hash" in request.headers:
            session.metadata |= _sent_hashes(request)  # the emulator compares them with the whole object
        if sent[3] == "*" or session.received < int(sent[3]):
            return Answer(308, {"Range": f"bytes=0-{session.received - 1}"} if session.received else {})
        return _resource(self._finish(session))

    def _finish(self, session: Session) -> Resource:
        self._check(session.bucket, session.name, session.conditions)
        data = b"".join(session.parts[number] for number in sorted(session.parts))
        session.done = self._emulator.write(session.bucket, session.name, data, session.metadata)
        session.parts = {}
        return session.done

    def _check(self, bucket: str, name: str, conditions: Mapping[str, str]) -> None:
        if conditions:
            check(self._emulator.find(bucket, name), conditions)

    def _session(self, upload: str) -> Session:
        if upload not in self._sessions:
            raise RequestError(404, "NoSuchUpload", "The upload is not known: it was never begun, or it was cancelled.")
        return self._sessions[upload]

    def _media(self, request: Request, bucket: str, name: str) -> Answer:
        found = self._emulator.get(bucket, name, request.conditions, request.query.get("generation"))
        headers, size = _headers(found), int(found["size"])
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted.strip('"') != headers["ETag"].strip('"'):
            raise RequestError(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        if request.method == "HEAD":
            return Answer(200, headers | {"Content-Length": str(size)})
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if span is None:
            return Answer(200, headers, self._emulator.read(bucket, name, 0, size) if size else b"")
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        end = min(size, int(span[2]) + 1) if span[1] and span[2] else size
        if start >= size:
            raise RequestError(416, "InvalidRange", "The requested range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Answer(206, headers, self._emulator.read(bucket, name, start, end))

    def _xml(self, request: Request) -> Answer:
        bucket, _, name = request.path.lstrip("/").partition("/")
        bucket, name = unquote(bucket), unquote(name)
        if not name:
            return self._xml_list(request, bucket)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._xml_multipart(request, bucket, name)
        if request.method == "PUT":
            self._check(bucket, name, request.conditions)
            return Answer(200, _headers(self._emulator.write(bucket, name, request.body, _user_metadata(request))))
        if request.method == "DELETE":
            self._emulator.get(bucket, name, request.conditions)
            self._emulator.delete(bucket, name)
            return Answer(204)
        return self._media(request, bucket, name)

    def _xml_list(self, request: Request, bucket: str) -> Answer:
        query = request.query
        found = self._emulator.list(bucket, query.get("prefix", ""))
        after = query.get("continuation-token") or query.get("start-after", "")
        items, prefixes, more = _page(found, query, after, int(query.get("max-keys", 1000)))
        contents = "".join(
            f"<Contents><Key>{_text(item['name'])}</Key><LastModified>{item['updated']}</LastModified><ETag>{_etag(item)}</ETag>"
            f"<Size>{item['size']}</Size><Generation>{item['generation']}</Generation></Contents>"
            for item in items
        )
        folders = "".join(f"<CommonPrefixes><Prefix>{_text(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes)
        token = f"<NextContinuationToken>{_text(more)}</NextContinuationToken>" if more else ""
        listing = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}{contents}{folders}"
        return Answer(200, XML, f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>{listing}</ListBucketResult>".encode())

    def _xml_multipart(self, request: Request, bucket: str, name: str) -> Answer:
        """A request of an XML multipart upload: https://cloud.google.com/storage/docs/multipart-uploads ."""
        if request.method == "POST" and "uploads" in request.query:
            self._emulator.require_bucket(bucket)
            upload = secrets.token_hex(16)
            self._sessions[upload] = Session(bucket, name, request.conditions, _user_metadata(request))
            return Answer(200, XML, _xml_result("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"))
        session = self._session(request.query["uploadId"])
        if request.method == "PUT":
            session.parts[int(request.query["partNumber"])] = request.body
            return Answer(200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"', "x-goog-hash": _hashes(request.body)})
        if request.method == "GET":
            after, most = int(request.query.get("part-number-marker", 0)), int(request.query.get("max-parts", 1000))
            numbers = [number for number in sorted(session.parts) if number > after]
            parts = "".join(_part(number, session.parts[number]) for number in numbers[:most])
            more = f"<NextPartNumberMarker>{numbers[most - 1]}</NextPartNumberMarker>" if len(numbers) > most else ""
            truncated = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
            return Answer(200, XML, _xml_result("ListPartsResult", truncated + more + parts))
        del self._sessions[request.query["uploadId"]]
        if request.method == "DELETE":
            return Answer(204)
        wanted = {int(part.findtext("{*}PartNumber", "0")): part.findtext("{*}ETag", "") for part in ElementTree.fromstring(request.body)}
        for number, etag in wanted.items():
            if hashlib.md5(session.parts.get(number, b"")).hexdigest() != etag.strip('"'):
                raise RequestError(400, "InvalidPart", f"Part {number} is not there, or is another one.")
        session.parts = {number: session.parts[number] for number in wanted}
        return Answer(200, XML, _xml_result("CompleteMultipartUploadResult", f"<ETag>{_etag(self._finish(session))}</ETag>"))


def _page(found: list[Resource], query: Mapping[str, str], after: str, most: int) -> tuple[list[Resource], list[str], str]:
    """The objects and the folders of one page, and where the next page begins ('' for none)."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    items: list[Resource] = []
    folders: list[str] = []
    last = ""
    for item in found:
        name = item["name"]
        head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        shown = prefix + head + cut if cut else name
        if shown <= after or (folders and shown == folders[-1]):
            continue
        if len(items) + len(folders) == most:
            return items, folders, last
        last = shown
        if cut:
            folders.append(shown)
        else:
            items.append(item)
    return items, folders, ""


def _multipart_body(request: Request) -> tuple[Resource, bytes]:
    """The metadata and the content of a body of two parts (multipart/related)."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    assert boundary is not None
    _, described, content = request.body.split(b"--" + boundary[1].encode(), 2)
    metadata = json.loads(described.split(b"\r\n\r\n", 1)[1])
    return metadata, content.split(b"\r\n\r\n", 1)[1].removesuffix(b"--\r\n").removesuffix(b"--").removesuffix(
        b"\r\n--" + boundary[1].encode()
    )


def _user_metadata(request: Request) -> Resource:
    prefix = "x-goog-meta-"
    own = {name.removeprefix(prefix): value for name, value in request.headers.items() if name.startswith(prefix)}
    return {"metadata": own, "contentType": request.headers.get("content-type", "application/octet-stream")} | _sent_hashes(request)


def _sent_hashes(request: Request) -> Resource:
    sent = dict(part.strip().split("=", 1) for part in request.headers.get("x-goog-hash", "").split(",") if part)
    names = {"crc32c": "crc32c", "md5": "md5Hash"}
    return {names[kind]: value for kind, value in sent.items() if kind in names}


def _headers(resource: Resource) -> dict[str, str]:
    own = {f"x-goog-meta-{name}": str(value) for name, value in (resource.get("metadata") or {}).items()}
    return own | {
        "Content-Type": resource["contentType"] or "application/octet-stream",
        "ETag": _etag(resource),
        "Last-Modified": format_datetime(datetime.fromisoformat(resource["updated"]), usegmt=True),
        "x-goog-generation": resource["generation"],
        "x-goog-metageneration": resource["metageneration"],
        "x-goog-stored-content-length": str(resource["size"]),
        "x-goog-hash": f"crc32c={resource['crc32c']},md5={resource['md5Hash']}",
    }


def _resource(resource: Resource) -> Answer:
    return Answer(200, JSON | {"ETag": _etag(resource)}, json.dumps(resource).encode())


def _etag(resource: Resource) -> str:
    return f'"{b64decode(resource["md5Hash"]).hex()}"'


def _hashes(data: bytes) -> str:
    crc32c = b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    return f"crc32c={crc32c},md5={b64encode(hashlib.md5(data).digest()).decode()}"


def _part(number: int, data: bytes) -> str:
    etag = hashlib.md5(data).hexdigest()
    return f'<Part><PartNumber>{number}</PartNumber><ETag>"{etag}"</ETag><Size>{len(data)}</Size></Part>'


def _xml_result(name: str, inner: str) -> bytes:
    return f"<?xml version='1.0' encoding='UTF-8'?><{name} xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{inner}</{name}>".encode()


def _text(text: str) -> str:
    # A control character cannot stand in XML 1.0, not even as a reference; the replacement character says that something is there.
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)).replace("\r", "&#13;")


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes answers; a connection serves many."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: Service

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def respond(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunked()
        else:
            length = int(headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # the connection broke: what came is not what was meant
                self.close_connection = True
                return
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        answer = self.service.answer(Request(self.command, url.path, query, headers, body))
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - http.server wants these names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""

    def _chunked(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return data


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a test opens."""

    request_queue_size = 256
    daemon_threads = True


def main(address: str) -> None:
    """Serve until the process is ended."""
    # In memory there is nothing to save, and saving takes as long as there are objects.
    Storage._write_config_to_file = lambda self: None
    emulator = create_server("127.0.0.1", 0, in_memory=True)
    emulator.start()
    Handler.service = Service(Emulator(emulator._api._httpd.server_port))
    with Server((address, 0), Handler) as front:
        print(f"http://{address}:{front.server_port} ", flush=True)
        front.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
