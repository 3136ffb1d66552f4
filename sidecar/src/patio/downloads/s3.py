"""S3 and what speaks like it, through botocore: any endpoint, path or virtual addressing; OBS with its own forms.

Without keys the roles of the pod are used where there are any, else requests are not signed, as public buckets want it.
No redirect is followed: a bucket of another region is asked for at the same endpoint, signed for its region.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from patio.downloads.addresses import in_clear, is_never_asked
from patio.downloads.backends import CONNECT_SECONDS, NETWORK_CHUNK, READ_SECONDS, Reading, begins_at
from patio.downloads.errors import DownloadError, error_of_status, plain_http_error, tls_hint
from patio.downloads.planner import Digest, Listing, RemoteFile
from patio.downloads.validation import MOST_FILES
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import Source, SourceKind

ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
"""Variables by which a cluster gives a pod a role."""
Style = Literal["auto", "path", "virtual"]
MOST_PAGES = 1000
_REMEDY = "Set ACCESS_KEY and SECRET_KEY (or AWS_ACCESS_KEY_ID, ...) in the sidecar, or give a Secret with them"
_MD5 = re.compile(r"[0-9a-f]{32}")


class S3:
    """A folder of a bucket."""

    def __init__(self, source: Source, config: dict[str, str], max_workers: int) -> None:
        self._bucket = source.name
        self._prefix = f"{source.path}/" if source.path else ""
        endpoint = config.get("endpoint")
        self._subject = f"{source} at {endpoint or 'AWS'}"
        if source.kind is SourceKind.OBS and endpoint is None:
            message = f"{source}: obs:// needs an endpoint. Set ENDPOINT in the sidecar, or endpoint in config."
            raise DownloadError(DownloadReason.INVALID, message)
        if endpoint is not None and is_never_asked(urlsplit(endpoint).hostname or ""):
            # Checked here too: an agent for a pod's role may have this address, and only the cluster may name it.
            message = f"{endpoint} is an address of the node. The sidecar never connects to it."
            raise DownloadError(DownloadReason.INVALID, message)
        signature: Any = "s3v4"
        self._signed = "access_key" in config or any(name in os.environ for name in ROLES)
        if not self._signed:
            signature = UNSIGNED
        elif endpoint is not None and in_clear(endpoint) and "allow_plain_http" not in config:
            raise plain_http_error(endpoint)
        # botocore makes its clients' methods from data at run time, so no type has them.
        self._client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=config.get("region") or region_of(endpoint, config.get("default_region", "us-east-1")),
            endpoint_url=endpoint,
            aws_access_key_id=config.get("access_key"),
            aws_secret_access_key=config.get("secret_key"),
            aws_session_token=config.get("session_token"),
            config=Config(
                signature_version=signature,
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                # Pauses between attempts are the parent's.
                retries={"total_max_attempts": 1},
                max_pool_connections=max_workers,
                s3={"addressing_style": addressing_style(source.kind, endpoint, config.get("addressing_style"))},
                # Stores that only speak like S3 do not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def listing(self) -> Listing:
        """List the objects below the folder."""
        files: list[RemoteFile] = []
        count = 0
        with self._download_errors(self._subject), self._checked_answer():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for number, page in enumerate(pages, 1):
                for entry in page.get("Contents", ()):
                    count += 1
                    if not entry["Key"].endswith("/") or entry["Size"]:  # how consoles show a folder
                        files.append(self._file(entry))
                if count > MOST_FILES or number >= MOST_PAGES:
                    message = f"{self._subject}: the folder has more than {MOST_FILES} objects, or {MOST_PAGES} pages."
                    raise DownloadError(DownloadReason.REJECTED, message)
            if not files:
                raise self._no_files_error()
        return Listing(tuple(files))

    def _file(self, entry: dict[str, Any]) -> RemoteFile:
        tag = entry["ETag"].strip('"')
        digest = Digest("md5", tag) if _MD5.fullmatch(tag) else None
        return RemoteFile(entry["Key"].removeprefix(self._prefix), entry["Size"], tag, digest)

    def _no_files_error(self) -> DownloadError:
        """Tell a folder that is not there from an object that was taken for one."""
        name = self._prefix.rstrip("/")
        if name:
            objects = self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
            if any(entry["Key"] == name for entry in objects.get("Contents", ())):
                message = f"{self._subject}: this is an object, not a folder. Name the folder that contains it."
                return DownloadError(DownloadReason.NOT_FOUND, message)
        return DownloadError(DownloadReason.NOT_FOUND, f"{self._subject}: the source has no files at this path.")

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        """Get an object, if it is still the one that was listed."""
        range_argument = {"Range": f"bytes={offset}-"} if offset else {}
        with self._download_errors(f"{file.name} of {self._subject}"):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + file.name, IfMatch=f'"{file.tag}"', **range_argument
            )
            if answer.get("ETag", "").strip('"') != file.tag:  # a store that does not know If-Match
                message = f"{file.name} of {self._subject}: the file changed while it was read."
                raise DownloadError(DownloadReason.CHANGED, message)
            begins = begins_at(answer.get("ContentRange"), offset, f"{file.name} of {self._subject}")
            # Encrypted with a key of its own, an object's ETag is not the MD5 of its content.
            plain = answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
            with closing(answer["Body"]) as body:
                yield Reading(begins, body.iter_chunks(NETWORK_CHUNK), file.digest if plain else None)

    @contextmanager
    def _checked_answer(self) -> Iterator[None]:
        """Tell of an answer that is not a store's."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            message = f"{self._subject}: the endpoint does not answer like an S3 store ({type(error).__name__})."
            raise DownloadError(DownloadReason.ERROR, message) from None

    @contextmanager
    def _download_errors(self, subject: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            # Of the answer only the code: its message may repeat the key.
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            code = str(error.response.get("Error", {}).get("Code", ""))[:100]
            retry_after = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
            seconds = float(retry_after) if retry_after.isdecimal() else None
            message = f"{subject}: {code}" if code and not code.isdecimal() else subject
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
                raise DownloadError(DownloadReason.UNAUTHORIZED, f"{message}: the credentials are wrong.") from None
            if 300 <= status < 400:
                message = (
                    f"{message}: the store redirects ({status}), and the sidecar follows no redirect. Name the "
                    "bucket's own endpoint or region."
                )
                raise DownloadError(DownloadReason.REJECTED, message) from None
            raise error_of_status(status, message, seconds, "" if self._signed else _REMEDY) from None
        except (HTTPClientError, OSError) as error:
            cause = getattr(error, "kwargs", {}).get("error")
            if isinstance(cause, DownloadError):
                raise cause from None
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise
            text = f"{type(error).__name__}: {error}"
            raise DownloadError(DownloadReason.UNREACHABLE, f"{subject}: {text}{tls_hint(text)}") from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DownloadError(DownloadReason.UNAUTHORIZED, f"{subject}: {error}") from None
        except ParamValidationError as error:
            raise DownloadError(DownloadReason.INVALID, f"{subject}: {error}") from None
        except BotoCoreError as error:
            raise DownloadError(DownloadReason.UNREACHABLE, f"{subject}: {type(error).__name__}: {error}") from None


def region_of(endpoint: str | None, default: str = "us-east-1") -> str:
    """Return the region in an endpoint's name (`s3.eu-west-1.amazonaws.com`, `obs.cn-north-4.…`)."""
    host = urlsplit(endpoint or "").hostname or ""
    match = re.match(r"(?:.+\.)?(?:s3|obs)[.-]([a-z]{2}(?:-[a-z]+)+-\d+)\.", host)
    return match.group(1) if match else default


def addressing_style(kind: SourceKind, endpoint: str | None, configured: str | None) -> Style:
    """Return how buckets are addressed. OBS takes only names in front of its host, where that is a name."""
    if configured == "path":
        return "path"
    if configured == "virtual":
        return "virtual"
    if kind is not SourceKind.OBS:
        return "auto"  # AWS: virtual; other endpoints: path
    host = urlsplit(endpoint or "").hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "path" if "." not in host else "virtual"
    return "path"
