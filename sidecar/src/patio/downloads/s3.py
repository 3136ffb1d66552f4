"""S3 and what speaks like it, through botocore: any endpoint, path or virtual addressing; OBS with its own forms.

Without keys the roles of the pod are used where there are any, else requests are not signed, as public buckets want it.
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

from patio.api.downloads_protocol import DownloadReason
from patio.api.sources import Source, SourceKind
from patio.downloads.backends import CHUNK, CONNECT_SECONDS, READ_SECONDS, Reading
from patio.downloads.faults import DownloadFault, of_status
from patio.downloads.names import MOST_FILES
from patio.downloads.plan import Digest, Listing, RemoteFile

ROLES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
"""Variables by which a cluster gives a pod a role."""
Style = Literal["auto", "path", "virtual"]
_MD5 = re.compile(r"[0-9a-f]{32}")


class S3:
    """A folder of a bucket."""

    def __init__(self, source: Source, config: dict[str, str], max_workers: int) -> None:
        self._bucket = source.name
        self._prefix = f"{source.path}/" if source.path else ""
        endpoint = config.get("endpoint")
        self._what = f"{source} at {endpoint or 'AWS'}"
        if source.kind is SourceKind.OBS and endpoint is None:
            words = f"{source}: obs:// needs an endpoint, by ENDPOINT or in config."
            raise DownloadFault(DownloadReason.INVALID, words)
        signature: Any = "s3v4"
        if "access_key" not in config and not any(name in os.environ for name in ROLES):
            signature = UNSIGNED
        # botocore makes its clients' methods from data at run time, so no type has them.
        self._client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=config.get("region") or region_of(endpoint),
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
        with self._faults(self._what):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                if len(files) > MOST_FILES:
                    break
                for entry in page.get("Contents", ()):
                    name = entry["Key"].removeprefix(self._prefix)
                    if entry["Key"].endswith("/") and not entry["Size"]:
                        continue  # how consoles show a folder
                    tag = entry["ETag"].strip('"')
                    digest = Digest("md5", tag) if _MD5.fullmatch(tag) else None
                    files.append(RemoteFile(name, entry["Size"], tag, digest))
        return Listing(tuple(files))

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        """Get an object, if it is still the one that was listed."""
        asked = {"Range": f"bytes={offset}-"} if offset else {}
        with self._faults(f"{file.name} of {self._what}"):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + file.name, IfMatch=f'"{file.tag}"', **asked
            )
            if answer["ETag"].strip('"') != file.tag:  # a store that does not know If-Match
                words = f"{file.name} of {self._what}: it was changed while it was read."
                raise DownloadFault(DownloadReason.CHANGED, words)
            begins = offset if answer.get("ContentRange") else 0
            # Encrypted with a key of its own, an object's ETag is not the MD5 of its content.
            plain = answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
            with closing(answer["Body"]) as body:
                yield Reading(begins, body.iter_chunks(CHUNK), file.digest if plain else None)

    @contextmanager
    def _faults(self, what: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            # Of the answer only the code: its message may repeat the key.
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            code = error.response.get("Error", {}).get("Code", "")
            retry_after = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
            seconds = float(retry_after) if retry_after.isdecimal() else None
            words = f"{what}: {code}" if code and not code.isdecimal() else what
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
                raise DownloadFault(DownloadReason.UNAUTHORIZED, f"{words}: the credentials are wrong.") from None
            raise of_status(status, words, seconds) from None
        except (HTTPClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise
            raise DownloadFault(DownloadReason.UNREACHABLE, f"{what}: {type(error).__name__}: {error}") from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DownloadFault(DownloadReason.UNAUTHORIZED, f"{what}: {error}") from None
        except ParamValidationError as error:
            raise DownloadFault(DownloadReason.INVALID, f"{what}: {error}") from None
        except BotoCoreError as error:
            raise DownloadFault(DownloadReason.UNREACHABLE, f"{what}: {type(error).__name__}: {error}") from None


def region_of(endpoint: str | None) -> str:
    """Return the region that an endpoint's name tells (`s3.eu-west-1.amazonaws.com`, `obs.cn-north-4.…`)."""
    host = urlsplit(endpoint or "").hostname or ""
    found = re.match(r"(?:.+\.)?(?:s3|obs)[.-]([a-z]{2}(?:-[a-z]+)+-\d+)\.", host)
    return found.group(1) if found else "us-east-1"


def addressing_style(kind: SourceKind, endpoint: str | None, asked: str | None) -> Style:
    """Return how buckets are addressed. OBS takes only names in front of its host, where that is a name."""
    if asked == "path":
        return "path"
    if asked == "virtual":
        return "virtual"
    if kind is not SourceKind.OBS:
        return "auto"  # AWS: virtual; other endpoints: path
    host = urlsplit(endpoint or "").hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "path" if "." not in host else "virtual"
    return "path"
